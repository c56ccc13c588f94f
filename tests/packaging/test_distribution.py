"""What ``pip install gridsync-redis`` gives: every file of the package, what it declares and no more.

The wheel is installed for real
into environments of its own; each extra by itself is tried with links to just the packages that it declares, out of the
environment of the tests.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer


pytestmark = [pytest.mark.any_server, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
NAME = "gridsync-redis"
EXTRAS = {
    "archive": ["compression.zstd" if sys.version_info >= (3, 14) else "zstandard"],
    "cli": ["gridsync.cli._app"],
    "embedded": ["gridsync.embedded"],
    "fastapi": ["gridsync.contrib.fastapi"],
    "httpx": ["gridsync.contrib.httpx"],
    "ops": ["gridsync.ops.tls"],
    "prometheus": ["gridsync.contrib.prometheus"],
    "starlette": ["gridsync.contrib.starlette"],
    "testing": ["gridsync.testing.sim", "gridsync.testing.plugin", "trustme"],
}
"""What each extra is for."""
TAUGHT = ["fastapi", "httpx", "prometheus", "starlette"]
"""The extras of one module of `gridsync.contrib` each."""
IN_THE_WHEEL = r"gridsync/|gridsync_redis-[^/]+\.dist-info/"
USE = """
from gridsync import Grid
with Grid() as grid:
    with grid.lock("job") as lease:
        limiter = grid.limiter("api", "1/hour")
        print(lease.fence > 0, bool(limiter.hit("a")), bool(limiter.hit("a")))
"""


def run(*command: str | Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing of ours in its environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "REDIS", "GRIDSYNC"))}
    done = subprocess.run(
        [str(word) for word in command],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def script() -> Any:  # noqa: ANN401 - a module
    """What `make dist` runs, as a module."""
    spec = importlib.util.spec_from_file_location("dist", ROOT / ".ci" / "dist.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it."""
    source, wheel = script().build(tmp_path_factory.mktemp("built"))
    return source, wheel


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(built: tuple[Path, Path]):
    """A Lua script, a data file or ``py.typed`` that is missing is not noticed where the source tree is at hand."""
    names = set(zipfile.ZipFile(built[1]).namelist())
    ours = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("gridsync/")} == ours
    assert {"gridsync/py.typed", "gridsync/locks/lua/acquire.lua"} <= ours
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert [name for name in names if not re.match(IN_THE_WHEEL, name)] == []


def test_the_source_distribution_has_what_its_tests_need(built: tuple[Path, Path]):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "Makefile",
        "LICENSE",
        "SECURITY.md",
        "tests/conftest.py",
        "requirements/test.txt",
        "docs/locks.md",
    } <= names
    assert not {name for name in names if name.startswith((".venv", "site/")) or "__pycache__" in name}


def test_it_works_without_any_extra_and_with_all_of_them(built: tuple[Path, Path], tmp_path: Path, server: RedisServer):
    """Without them on a server of one's own, with them on the one that an extra brings."""
    dist = script()
    programs = dist.environment(tmp_path, str(built[1]))
    assert run(programs / "python", "-c", USE, REDIS_URL=server.url).stdout.split() == ["True", "True", "False"]
    listed = json.loads(run(programs / "pip", "list", "--format", "json").stdout)
    assert {each["name"].lower().replace("_", "-") for each in listed} <= {"pip", "setuptools", NAME} | closure(None)
    told = run(programs / "gridsync", "--help", check=False)
    assert (told.returncode, told.stdout) == (2, "")
    assert "pip install 'gridsync-redis[cli]'" in told.stderr

    dist.install(programs, f"{built[1]}[all]")
    run(programs / "python", "-c", "import " + ", ".join(module for modules in EXTRAS.values() for module in modules))
    assert run(programs / "python", "-c", USE, PATH=str(programs)).stdout.split() == ["True", "True", "False"]
    assert "demo" in run(programs / "gridsync", "--help", PATH=str(programs)).stdout


def closure(extra: str | None) -> set[str]:
    """Return the names of all packages that gridsync with *extra* asks for, and those that these ask for."""
    found: set[str] = set()
    left = [(NAME, extra)]
    while left:
        name, wanted = left.pop()
        for text in metadata.requires(name) or []:
            asked = Requirement(text)
            if asked.marker and not asked.marker.evaluate({"extra": wanted or ""}):
                continue
            key = asked.name.lower().replace("_", "-")
            if key not in found:
                found.add(key)
                left += [(key, more) for more in (None, *asked.extras)]
    return found


def linked(place: Path, wheel: Path, packages: set[str]) -> Path:
    """Make a folder with the wheel's files and links to *packages*, for ``sys.path``."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)  # noqa: S202 - it was made by these tests
    for package in packages:
        tops = {path.parts[0] for path in metadata.distribution(package).files or [] if path.parts[0] != ".."}
        for top in tops - {"__pycache__"}:
            if not (place / top).exists():
                (place / top).symlink_to(Path(str(metadata.distribution(package).locate_file(top))))
    return place


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_declares_what_its_modules_import(built: tuple[Path, Path], tmp_path: Path, extra: str):
    """Alone: with all of them installed, one lives on what another brings."""
    site = linked(tmp_path, built[1], closure(None) | closure(extra))
    program = "; ".join(
        [f"import sys; sys.path.insert(0, {str(site)!r})", *(f"import {name}" for name in EXTRAS[extra])]
    )
    run(sys.executable, "-I", "-S", "-c", program)


@pytest.mark.parametrize("extra", TAUGHT)
def test_a_module_says_which_extra_it_is_missing(built: tuple[Path, Path], tmp_path: Path, extra: str):
    site = linked(tmp_path, built[1], closure(None))
    program = f"import sys; sys.path.insert(0, {str(site)!r}); import gridsync.contrib.{extra}"
    told = run(sys.executable, "-I", "-S", "-c", program, check=False)
    assert told.returncode == 1
    assert told.stderr.endswith(f"which is not installed: pip install 'gridsync-redis[{extra}]'\n")


def test_every_extra_is_tried_and_is_a_part_of_all():
    declared = set(metadata.metadata(NAME).get_all("Provides-Extra") or [])
    assert declared == {*EXTRAS, "all"}
    assert closure("all") == set().union(*(closure(extra) for extra in EXTRAS))
