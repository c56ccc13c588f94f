"""An installed gridsync has the demo's data too, also when its wheel is built from the source distribution."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = ROOT / "examples" / "data"


def build(project: Path, kind: str, into: Path) -> Path:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(into)], cwd=project, check=True)
    (built,) = into.iterdir()
    return built


def test_the_wheel_of_the_source_distribution_has_the_data(tmp_path: Path):
    with tarfile.open(build(ROOT, "sdist", tmp_path / "sdist")) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # there is none before Python 3.11.4
        archive.extractall(tmp_path / "unpacked")  # noqa: S202 - it was made two lines above
    (project,) = (tmp_path / "unpacked").iterdir()
    with zipfile.ZipFile(build(project, "wheel", tmp_path / "wheel")) as wheel:
        for name in ("quarter_hours.csv", "README.md"):
            assert wheel.read(f"gridsync/cli/demo/data/{name}") == (DATA / name).read_bytes()
