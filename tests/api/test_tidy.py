"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import gridsync
from gridsync._io.scripts import Parameter, parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "gridsync"
MODULES = sorted(SOURCE.rglob("*.py"))
SCRIPTS = sorted(SOURCE.glob("**/lua/*.lua"))
PARTS = sorted(SOURCE.glob("**/lua/parts/*.lua"))
PRIMITIVES = sorted(path.parent.name for path in SOURCE.glob("*/_api.py"))

# fmt: off
WORLD = frozenset({
    "asyncio", "concurrent", "hiredis", "httpx", "multiprocessing", "random", "redis", "requests", "secrets", "select",
    "selectors", "signal", "socket", "ssl", "subprocess", "tenacity", "threading", "time", "uuid",
})
# fmt: on
"""Clients, clocks, loops, threads and random sources."""
MAY_TOUCH_THE_WORLD = (
    *("_io", "_embedded", "embedded", "_opened", "_client"),
    *("grid", "redlock", "testing", "ops", "cli", "contrib"),
)

BELOW = {
    "errors": (),
    "_units": ("errors",),
    "_worlds": ("errors",),
    "_io": ("errors", "_units"),
    "settings": ("errors", "_units", "_io"),
    "_embedded": ("errors", "_units"),
    "embedded": ("errors", "_units", "_embedded"),
    **dict.fromkeys(PRIMITIVES, ("errors", "_units", "_worlds", "_io")),
    "health": (),
    "_checkup": ("_io", "health"),
    "_audit": ("_io", "_checkup"),
    "_opened": ("_io", "settings", "embedded", "_audit"),
    "_client": ("_io", "settings"),
    "_factories": ("errors", "_units", "_io", "settings", *PRIMITIVES),
    "grid": (
        *("errors", "_units", "_worlds", "_io", "settings", "embedded", "_checkup", "health"),
        *("_opened", "_client", "_factories"),
    ),
    "redlock": ("errors", "_units", "_worlds", "_io", "settings", "_opened", "grid", "health", *PRIMITIVES),
    "ops": (
        *("errors", "_units", "_io", "settings", "_embedded", "embedded", "_opened", "_client", "grid", "health"),
        *PRIMITIVES,
    ),
}
"""Which parts a part may import besides itself; `testing`, `cli` and `contrib` stand on top and may import all."""


def part(path: Path) -> str:
    """Name the part of the house that a module belongs to: the first folder or file below the package."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def label(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{label(path)}:{node.lineno}: relative import; write the whole name"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("path", [p for p in MODULES if part(p) not in MAY_TOUCH_THE_WORLD], ids=label)
def test_only_the_ground_touches_the_world(path: Path):
    """A core with a clock, a thread or a client of its own would not run the same in all three drivers."""
    found = [f"line {line}: {name}" for line, name in imports(path) if name.split(".")[0] in WORLD]
    assert not found, f"{label(path)} must ask its io instead of importing {found}"


@pytest.mark.parametrize("path", [p for p in MODULES if part(p) in PRIMITIVES], ids=label)
def test_a_primitive_reads_no_wall_clock(path: Path):
    """A datetime may convert what the server said; it may not ask this machine what time it is."""
    calls = [
        f"line {node.lineno}: {node.func.attr}()"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"now", "utcnow", "today"}
    ]
    assert not calls, f"{label(path)}: {calls}"


@pytest.mark.parametrize("path", [p for p in MODULES if part(p) in BELOW], ids=label)
def test_dependencies_point_down(path: Path):
    here = part(path)
    allowed = {here, *BELOW[here]}
    inside = [(line, name.split(".")) for line, name in imports(path) if name.split(".")[0] == "gridsync"]
    upwards = [
        f"line {line}: {'.'.join(name)}"
        for line, name in inside
        # `from gridsync import __version__` and the like name no part of the house.
        if (name[1] in BELOW or (SOURCE / name[1]).is_dir()) and name[1] not in allowed
    ]
    assert not upwards, f"{label(path)} may import {sorted(allowed)}, not {upwards}"


def test_every_part_of_the_house_has_its_place():
    """A new folder must say what it stands on, or the rule above would not see it."""
    parts = {part(path) for path in MODULES} - {"__init__", "__main__"}
    assert parts <= {*BELOW, "testing", "cli", "contrib"}


def code(source: str) -> str:
    """Return Lua without its comments; our scripts have no ``--`` inside strings."""
    return re.sub(r"--.*", "", source)


def indexes(kind: str, body: str) -> set[int]:
    return {int(number) for number in re.findall(rf"\b{kind}\[(\d+)\]", body)}


def check_parameters(kind: str, declared: tuple[Parameter, ...], body: str) -> list[str]:
    """Compare the ``KEYS`` or ``ARGV`` lines of a header with the indexes that the body reads."""
    used = indexes(kind, body)
    variadic = declared[-1].index if declared and declared[-1].variadic else None
    # A computed index, `#ARGV`, or the table as a whole.
    whole = re.search(rf"\b{kind}\b(?!\[\d+\])", body) is not None
    problems = [
        f"{kind}[{parameter.index}] {parameter.name} is declared and never read"
        for parameter in declared
        if not parameter.variadic and parameter.index not in used and not (whole and variadic is None)
    ]
    # Keys of any type are those of commands that stand among the arguments: declared for their slot.
    through_arguments = variadic is not None and declared[-1].type == "any"
    problems += [
        f"{kind}[{index}] is read and not declared"
        for index in sorted(used)
        if index > len(declared) and (variadic is None or index < variadic)
    ]
    if whole and variadic is None:
        problems.append(f"{kind} is read by a computed index or as a whole, so the last one must be {kind}[n..]")
    if variadic is not None and not (whole or through_arguments or any(index >= variadic for index in used)):
        problems.append(f"{kind}[{variadic}..] is declared and never read")
    return problems


@pytest.mark.parametrize("path", SCRIPTS, ids=label)
def test_a_script_keeps_its_contract(path: Path):
    """The retry layer believes the header's category, the cores its order of keys and arguments."""
    source = path.read_text(encoding="utf-8")
    script = parse(path.stem, source)
    body = code(source)
    assert source.splitlines()[0] in {"#!lua", "#!lua flags=no-writes", "#!lua flags=allow-oom"}
    assert source.splitlines()[1].startswith(f"-- {path.stem}: "), "the second line says what the script does"
    assert check_parameters("KEYS", script.keys, body) + check_parameters("ARGV", script.args, body) == []
    for declared in (script.keys, script.args):
        assert len({parameter.name for parameter in declared}) == len(declared)


@pytest.mark.parametrize("path", PARTS, ids=label)
def test_a_part_of_scripts_is_included_and_touches_no_argument(path: Path):
    """It would read other arguments in each of them; what it uses, its first comment says."""
    line = f"-- include {path.relative_to(path.parents[1])}"
    assert any(line in script.read_text(encoding="utf-8").splitlines() for script in path.parents[1].glob("*.lua"))
    source = path.read_text(encoding="utf-8")
    assert source.startswith("-- What ")
    assert "\n-- Before: " in source
    assert not re.search(r"\b(KEYS|ARGV)\b", code(source))


def test_scripts_borrow_parts_of_another_wing_only_to_append_events():
    """Their Python does not know each other; what a book appends is written as the store writes it."""
    borrowed = {
        (part(path), found)
        for path in (*SCRIPTS, *PARTS)
        for found in re.findall(r"^-- include /(\w+)/", path.read_text(), re.MULTILINE)
    }
    assert borrowed <= {("market", "streams")}


@pytest.mark.parametrize("path", [*SCRIPTS, *PARTS], ids=label)
def test_a_script_asks_for_no_unbounded_reply(path: Path):
    commands = {name.upper() for name in re.findall(r"redis\.p?call\(\s*'(\w+)'", code(path.read_text("utf-8")))}
    assert not commands & {"KEYS", "SCAN", "SMEMBERS", "FLUSHALL", "FLUSHDB", "RANDOMKEY"}


@pytest.mark.parametrize("path", SCRIPTS, ids=label)
def test_every_script_is_loaded_by_someone(path: Path):
    """A script that nobody runs would rot unseen."""
    package = path.parents[1]
    sources = "".join(file.read_text(encoding="utf-8") for file in package.glob("*.py"))
    assert f'"{path.stem}"' in sources


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("return {KEYS[1], ARGV[1]}", None),
        ("return KEYS[1]", "ARGV[1] owner is declared and never read"),
        ("return {KEYS[1], ARGV[1], ARGV[2]}", "ARGV[2] is read and not declared"),
        ("return {KEYS[1], ARGV[1], #ARGV}", "ARGV is read by a computed index or as a whole"),
        ("return {KEYS[1], KEYS[2], ARGV[1]}", "KEYS[2] is read and not declared"),
        ("-- KEYS[1]\nreturn ARGV[1]", "KEYS[1] state is declared and never read"),
    ],
)
def test_a_drifted_header_is_found(body: str, problem: str | None):
    keys, args = (Parameter(1, "state", "hash"),), (Parameter(1, "owner", "string"),)
    found = check_parameters("KEYS", keys, code(body)) + check_parameters("ARGV", args, code(body))
    assert len(found) == (problem is not None)
    assert problem is None or found[0].startswith(problem)


def public_modules() -> Iterator[ModuleType]:
    yield gridsync
    for found in pkgutil.walk_packages(gridsync.__path__, "gridsync."):
        if not any(word.startswith("_") for word in found.name.split(".")):
            yield importlib.import_module(found.name)


PUBLIC = [module for module in public_modules() if not module.__name__.startswith("gridsync.cli")]


def listed(module: ModuleType) -> list[str]:
    """Return what a module offers: its ``__all__``, or else what it defines without an underscore."""
    defined = (name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__)
    return list(getattr(module, "__all__", None) or (name for name in defined if not name.startswith("_")))


def own_members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public members of a class that gridsync itself wrote, inherited ones included."""
    for name in dir(cls):
        owner = next((base for base in cls.__mro__ if name in vars(base)), None)
        if not name.startswith("_") and owner is not None and owner.__module__.startswith("gridsync"):
            yield name, inspect.getattr_static(cls, name)


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_public_names_are_documented(module: ModuleType):
    """Every public name has a docstring, and so does every public method and property."""
    assert module.__doc__, f"{module.__name__} has no docstring"
    undocumented = []
    for name in listed(module):
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        if not value.__module__.startswith("gridsync"):
            continue
        if not inspect.getdoc(value):
            undocumented.append(name)
        if inspect.isclass(value):
            undocumented += [
                f"{name}.{member}"
                for member, what in own_members(value)
                if (inspect.isroutine(what) or isinstance(what, property | classmethod | staticmethod))
                and not inspect.getdoc(getattr(value, member))
            ]
    assert not undocumented, f"{module.__name__}: {undocumented}"


def twins() -> Iterator[tuple[type, type]]:
    """Yield every class X with its AsyncX of the same module."""
    wings = (path for wing in PRIMITIVES for path in sorted((SOURCE / wing).glob("*.py")) if path.stem != "__init__")
    for file in (*wings, SOURCE / "grid.py", SOURCE / "redlock.py"):
        module = importlib.import_module(".".join(file.relative_to(SOURCE.parent).with_suffix("").parts))
        for name, cls in vars(module).items():
            if inspect.isclass(cls) and name.startswith("Async") and cls.__module__ == module.__name__:
                assert hasattr(module, name.removeprefix("Async")), f"{name} has no twin in {module.__name__}"
                yield getattr(module, name.removeprefix("Async")), cls


def as_sync(annotation: object) -> str:
    """Return an annotation as its sync twin would have it."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"\b(typing|collections\.abc|contextlib)\.", "", text)
    text = re.sub(r"\bAsync(?=[A-Z])", "", text)
    text = text.replace("AbstractAsyncContextManager", "AbstractContextManager")
    while (inner := re.sub(r"\bAwaitable\[((?:[^\[\]]|\[[^\[\]]*\])*)\]", r"\1", text)) != text:
        text = inner
    text = re.sub(r"Coroutine\[Any, Any, ((?:[^\[\]]|\[[^\[\]]*\])*)\]", r"\1", text)
    # A handler that may be a plain function as well.
    return re.sub(r"\b(\w+(?:\[\w+\])?) \| \1(?!\w)", r"\1", text)


def surface(cls: type) -> dict[str, object]:
    """Return what a caller of a class sees, in the words of the sync twin."""
    seen: dict[str, object] = {}
    for name, what in own_members(cls):
        if isinstance(what, property):
            seen[name] = "property"
            continue
        function = what.__func__ if isinstance(what, classmethod | staticmethod) else what
        if not inspect.isfunction(function):
            continue
        signature = inspect.signature(function)
        seen[name] = (
            [(p.name, p.kind.name, repr(p.default), as_sync(p.annotation)) for p in signature.parameters.values()],
            as_sync(signature.return_annotation),
        )
    return seen


@pytest.mark.parametrize("pair", list(twins()), ids=lambda pair: pair[0].__name__)
def test_sync_and_async_twins_have_equal_signatures(pair: tuple[type, type]):
    """Whoever knows one knows the other; options cannot be added to one and forgotten in the other."""
    plain, twin = map(surface, pair)
    # Only a thread can connect in a constructor.
    assert plain.keys() == twin.keys() - {"open"}
    for name in plain:
        assert plain[name] == twin[name], name


@pytest.mark.parametrize("pair", list(twins()), ids=lambda pair: pair[0].__name__)
def test_sync_and_async_twins_are_made_with_equal_arguments(pair: tuple[type, type]):
    plain, twin = (
        [(p.name, p.kind.name, repr(p.default)) for p in inspect.signature(cls.__init__).parameters.values()]
        for cls in pair
    )
    assert plain == twin


@pytest.mark.parametrize("pair", list(twins()), ids=lambda pair: pair[0].__name__)
def test_twins_agree_on_with_and_for(pair: tuple[type, type]):
    plain, twin = pair
    for name, other in (("__enter__", "__aenter__"), ("__exit__", "__aexit__"), ("__iter__", "__aiter__")):
        assert hasattr(plain, name) == hasattr(twin, other), f"{plain.__name__}.{name}, {twin.__name__}.{other}"


def committed() -> list[Path]:
    """Return the files of the repository; of a source archive, those of its own folders."""
    try:
        listed = subprocess.run(
            ["/usr/bin/env", "git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return [p for folder in ("src", "tests", "docs", "examples") for p in (ROOT / folder).rglob("*") if p.is_file()]
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_path_of_the_machine_it_was_written_on():
    """Such a path works for one person, and tells everybody else where that person works."""
    mine = {str(path) + "/" for path in (ROOT, Path.home(), Path(sys.prefix)) if len(path.parts) > 1}
    found = []
    for path in committed():
        text = path.read_bytes().decode(errors="ignore")
        found += [f"{path.relative_to(ROOT)}: {name}" for name in mine if name in text]
    assert not found


def test_locked_versions_cover_what_the_project_asks_for():
    """If this fails, a dependency was added without `make lock`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    asked = {
        "demo": [*project["project"]["dependencies"], *extras["embedded"], *extras["cli"], *groups["build"]],
        "test": [*project["project"]["dependencies"], *chain(*extras.values()), *groups["test"]],
        **{name: groups[name] for name in ("lint", "docs", "bench", "lock")},
    }
    for name, requirements in asked.items():
        text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
        pinned = set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))
        wanted = {re.split(r"[^a-z0-9-]", requirement)[0] for requirement in requirements} - {"gridsync-redis"}
        assert wanted <= pinned, f"{name}.txt lacks {wanted - pinned}"


def test_requirements_name_no_index():
    """The locked versions hold for every index and mirror, since hashes say what a package is."""
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text(encoding="utf-8")
        assert "://" not in text, path.name
        assert not re.search(r"^\s*(-i|-f|--index|--extra-index|--find-links)", text, re.MULTILINE), path.name
