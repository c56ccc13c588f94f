"""Scripts and commands: what is atomic, and what may be repeated.

A script is a ``.lua`` file next to its core.  Its first line is ``#!lua`` (so that Redis refuses a key of another
slot), then comes a contract that is parsed here and checked by the tests::

    #!lua
    -- release: give the lock back, or leave its queue.
    -- KEYS[1] state hash
    -- ARGV[1] owner string
    -- ARGV[2] claim integer, ms
    -- ARGV[3] repeat_us integer, us
    -- Returns 1 if it was held by this owner, else 0
    -- Category idempotent
    -- Cost O(1)

A line ``-- include parts/bucket.lua`` is replaced by that file of the same folder, without the comments at its top, so
that scripts can share what they know about a key.  A part is no script: it has no contract, and touches neither KEYS
nor ARGV but uses the locals that its first comment names.  A whole script can be included too, as the body of a
function whose parameters are called KEYS and ARGV.  ``-- include /streams/parts/write.lua`` is a part of another wing:
so a script of one wing writes what belongs to another as that one does, and their Python need not know each other.

``KEYS[n..]`` and ``ARGV[n..]`` stand for any number from *n* on.  An argument named ``repeat_us`` is filled in by the
retry layer: 0 unless an earlier attempt may have been applied, else the microseconds since the first one left (at
least 1).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.resources.abc import Traversable


class Category(StrEnum):
    """What a repeat of an operation does, and so whether an unanswered one may be repeated."""

    READ = "read"
    """Changes nothing: always repeated."""
    IDEMPOTENT = "idempotent"
    """A repeat finds that it was done and says so: always repeated."""
    LAST_WINS = "last-wins"
    """A repeat writes the same again: repeated, though it may overwrite a rival's later write."""
    ACCUMULATING = "accumulating"
    """A repeat would count twice: repeated only when it surely was not applied."""
    NEVER = "never"
    """Not repeated at all, whatever happened."""

    @property
    def repeatable(self) -> bool:
        """Whether an operation that may have been applied may be sent again."""
        return self in _REPEATABLE


_REPEATABLE = frozenset({Category.READ, Category.IDEMPOTENT, Category.LAST_WINS})


@dataclass(frozen=True, slots=True)
class Parameter:
    """One ``KEYS[n]`` or ``ARGV[n]`` line of a contract."""

    index: int
    name: str
    type: str
    unit: str = ""
    variadic: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script with its parsed contract."""

    name: str
    source: str
    sha: str
    category: Category
    keys: tuple[Parameter, ...]
    args: tuple[Parameter, ...]
    returns: str
    cost: str
    repeat_index: int | None
    """Zero-based place of ``repeat_us`` among the arguments."""

    def words(self, keys: Sequence[object], args: Sequence[object]) -> tuple[Any, ...]:
        """Return the command that runs this script."""
        return ("EVALSHA", self.sha, str(len(keys)), *keys, *args)

    def whole(self, keys: Sequence[Any], args: Sequence[Any]) -> tuple[Script, Sequence[Any], Sequence[Any]]:
        """Return what is run, with which keys and arguments."""
        return self, keys, args

    def __repr__(self) -> str:
        """Name and category are enough; the source is a file away."""
        return f"<Script {self.name} {self.category}>"


@dataclass(frozen=True, slots=True)
class Command:
    """A plain command whose keys come first, for what needs no script."""

    name: str
    category: Category
    head: tuple[str, ...]
    """The words before the keys."""
    repeat_index: None = None
    keyed: bool = True
    """Whether the keys are written; if not, they only say which server is asked."""

    def words(self, keys: Sequence[object], args: Sequence[object]) -> tuple[Any, ...]:
        """Return the command line."""
        return (*self.head, *keys, *args) if self.keyed else (*self.head, *args)

    def whole(self, keys: Sequence[Any], args: Sequence[Any]) -> tuple[Command, Sequence[Any], Sequence[Any]]:
        """Return what is run, with which keys and arguments."""
        return self, keys, args


Operation = Script | Command


class Bound:
    """A call of a script of which most is known beforehand, and so packed beforehand.

    It is run with what stands in the gaps, and with the keys, which say where it goes.  Packing costs a quarter of what
    it costs otherwise, a microsecond less for a dozen words; making one costs two.

    Args:
        script: What is run.
        keys: All keys, or none if there is one and it is another each time: then it is written, too.
        args: All arguments, with ``None`` for each that is another each time.  Those are text.
    """

    __slots__ = ("_args", "_keys", "_template", "name", "script")

    def __init__(self, script: Script, keys: Sequence[str], args: Sequence[str | None]) -> None:
        self.script: Script = script
        self.name: str = script.name
        self._keys = keys
        self._args = args
        words = ("EVALSHA", script.sha, str(len(keys) or 1), *(keys or (None,)), *args)
        line = "".join("$%d\r\n%s\r\n" if word is None else _packed(word).replace("%", "%%") for word in words)
        self._template = f"*{len(words)}\r\n{line}"

    def words(self, keys: Sequence[str], args: Sequence[str]) -> bytes | tuple[Any, ...]:
        """Return the packed request, or its words where a gap is filled with what is not ASCII."""
        gaps = args if self._keys else (keys[0], *args)
        count = len(gaps)
        if count == 3:  # noqa: PLR2004 - as many as the busiest calls have: no loop
            a, b, c = gaps
            packed = self._template % (len(a), a, len(b), b, len(c), c)
        elif count == 2:  # noqa: PLR2004
            a, b = gaps
            packed = self._template % (len(a), a, len(b), b)
        else:
            packed = self._template % tuple(part for gap in gaps for part in (len(gap), gap))
        if packed.isascii():
            return packed.encode()
        script, keys, args = self.whole(keys, args)
        return script.words(keys, args)

    def whole(self, keys: Sequence[Any], args: Sequence[Any]) -> tuple[Script, Sequence[Any], Sequence[Any]]:
        """Return what is run, with which keys and arguments."""
        gaps = iter(args)
        return self.script, keys, tuple(next(gaps) if arg is None else arg for arg in self._args)

    def __repr__(self) -> str:
        """Name and category are enough; the source is a file away."""
        return f"<Bound {self.script!r}>"


def _packed(word: str) -> str:
    return f"${len(word.encode())}\r\n{word}\r\n"


_PARAMETER = re.compile(
    r"^-- (?P<kind>KEYS|ARGV)\[(?P<index>\d+)(?P<variadic>\.\.)?\] (?P<name>[a-z_0-9]+) +(?P<type>[a-z]+)"
    r"(?:, (?P<unit>[^:]+?))?(?:: .*)?$"
)
_INCLUDE = re.compile(r"^-- include (?:/(?P<wing>[a-z]+)/)?(?P<path>[a-z][a-z_/]*\.lua)$", re.MULTILINE)
_TOP = re.compile(r"\A(?:(?:#!|--).*\n)*")
"""The first line and the comments that follow it."""
_KEY_TYPES = frozenset({"hash", "zset", "string", "stream", "set", "list", "any"})
_ARG_TYPES = frozenset({"string", "integer", "flag", "bytes"})


class ContractError(ValueError):
    """A script whose header does not say what it must."""


def parse(name: str, source: str) -> Script:
    """Read a script's contract.

    Raises:
        ContractError: The header is incomplete, out of order or unreadable.
    """
    lines = source.splitlines()
    if not lines or not lines[0].startswith("#!lua"):
        raise ContractError(f"{name}: the first line must be '#!lua'")
    keys: list[Parameter] = []
    args: list[Parameter] = []
    facts: dict[str, str] = {}
    for line in lines[1:]:
        if not line.startswith("--"):
            break
        if line.startswith(("-- KEYS[", "-- ARGV[")):
            found = _PARAMETER.match(line)
            if found is None:
                raise ContractError(f"{name}: cannot read {line!r}")
            into, types = (keys, _KEY_TYPES) if found["kind"] == "KEYS" else (args, _ARG_TYPES)
            parameter = Parameter(
                int(found["index"]), found["name"], found["type"], found["unit"] or "", found["variadic"] is not None
            )
            if parameter.index != len(into) + 1 or (into and into[-1].variadic):
                raise ContractError(f"{name}: {line!r} is out of order")
            if parameter.type not in types:
                raise ContractError(f"{name}: {line!r} must have a type of {sorted(types)}")
            if parameter.type == "integer" and not parameter.unit:
                raise ContractError(f"{name}: {line!r} must name its unit")
            into.append(parameter)
            continue
        for word in ("Returns", "Category", "Cost"):
            if line.startswith(f"-- {word} "):
                facts[word] = line[len(word) + 4 :].strip()
    if missing := [word for word in ("Returns", "Category", "Cost") if word not in facts]:
        raise ContractError(f"{name}: the header lacks {', '.join(missing)}")
    try:
        category = Category(facts["Category"])
    except ValueError:
        raise ContractError(f"{name}: category {facts['Category']!r} is none of {[str(c) for c in Category]}") from None
    repeat = next((p.index - 1 for p in args if p.name == "repeat_us"), None)
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(name, source, sha, category, tuple(keys), tuple(args), facts["Returns"], facts["Cost"], repeat)


def expand(source: str, folder: Traversable) -> str:
    """Return a script with what it includes."""

    def included(found: re.Match[str]) -> str:
        home = folder if found["wing"] is None else _folder(f"gridsync.{found['wing']}")
        text = home.joinpath(*found["path"].split("/")).read_text(encoding="utf-8")
        return expand(_TOP.sub("", text).strip("\n"), home)

    return _INCLUDE.sub(included, source)


def _folder(package: str) -> Traversable:
    """Return where a wing has its scripts."""
    # Found without importing the wing: only its text is wanted.
    parts = package.split(".")
    return resources.files(parts[0]).joinpath(*parts[1:], "lua")


_loaded: dict[str, Script] = {}


def loaded() -> list[Script]:
    """Return every script that this process knows, which are those of the wings that it has imported."""
    return list(_loaded.values())


@cache
def load(package: str, name: str) -> Script:
    """Return the script ``lua/<name>.lua`` of *package*; read and parsed once per process."""
    folder = _folder(package)
    source = expand(folder.joinpath(f"{name}.lua").read_text(encoding="utf-8"), folder)
    script = parse(f"{package.removeprefix('gridsync.')}.{name}", source)
    _loaded[script.name] = script
    return script
