"""What a release consists of: ``python .ci/dist.py FOLDER``, or ``make dist``.

The source distribution, the wheel that is built from it unpacked, as a distributor would, and a bill of materials
(CycloneDX) of what ``pip install gridsync-redis[all]`` installs in the locked versions.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
HERE = Path(sys.executable).parent


def build(folder: Path) -> tuple[Path, Path]:
    """Build into *folder*, and return the source distribution and the wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("*.tar.gz"), *folder.glob("*.whl")]:
        old.unlink()
    hatchling = [sys.executable, "-m", "hatchling", "build", "-d", folder, "-t"]
    subprocess.run([*hatchling, "sdist"], cwd=ROOT, check=True, capture_output=True)
    (source,) = folder.glob("*.tar.gz")
    with tempfile.TemporaryDirectory() as place:
        with tarfile.open(source) as archive:
            # Python has filters from 3.11.4 on, and Debian 12 has 3.11.2; what is unpacked was packed a moment ago.
            archive.extractall(place, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # noqa: S202
        (unpacked,) = Path(place).iterdir()
        subprocess.run([*hatchling, "wheel"], cwd=unpacked, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return source, wheel


def environment(place: Path, *what: str) -> Path:
    """Make an environment in *place*, and return its folder of programs."""
    venv.create(place, with_pip=True, symlinks=True)
    programs = place / "bin"
    install(programs, *what)
    return programs


def install(programs: Path, *what: str) -> None:
    """Install *what* in the locked versions.  Those are given as constraints, which may not have hashes."""
    locked = re.findall(r"^[\w.-]+==[^ \\]+", (ROOT / "requirements" / "test.txt").read_text(), re.MULTILINE)
    constraints = programs / "constraints.txt"
    constraints.write_text("\n".join(locked))
    pip = [programs / "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-compile", "--constraint", constraints, *what], check=True)
    subprocess.run([*pip, "check"], check=True, stdout=subprocess.DEVNULL)


def list_materials(programs: Path, folder: Path, version: str) -> Path:
    """Write into *folder* what the environment consists of, without the installer."""
    subprocess.run([programs / "pip", "uninstall", "--quiet", "--yes", "setuptools", "pip"], check=True)
    path = folder / f"gridsync_redis-{version}.cdx.json"
    options = ["--pyproject", ROOT / "pyproject.toml", "--mc-type", "library", "--output-reproducible", "-o", path]
    subprocess.run([HERE / "cyclonedx-py", "environment", programs / "python", *options], check=True)
    bill = json.loads(path.read_text())
    bill["metadata"]["component"] |= {"version": version, "purl": f"pkg:pypi/gridsync-redis@{version}"}
    missing = {"redis", "pydantic", "typer"} - {each["name"] for each in bill["components"] if each["version"]}
    if missing:
        sys.exit(f"{path} does not name {', '.join(sorted(missing))}: the environment was not read")
    path.write_text(json.dumps(bill, indent=2) + "\n")
    return path


def main() -> None:
    """Make all three."""
    folder = Path(sys.argv[1]).resolve()
    source, wheel = build(folder)
    with tempfile.TemporaryDirectory() as place:
        programs = environment(Path(place), f"{wheel}[all]")
        bill = list_materials(programs, folder, wheel.name.split("-")[1])
    for path in (source, wheel, bill):
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
