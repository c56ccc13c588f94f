"""Every ``python`` fence of the README and the documentation runs, and prints what it says it prints.

The fences of one file share a namespace and run from top to bottom, with ``REDIS_URL`` set to a private server, which
also stands in for ``redis://localhost:6379``; ``await`` works at the top level, as in a notebook.  Expected output is
what follows ``# ->`` at the end of a line (of the value of that line's expression, or of what it prints), or a ``text``
fence right after the ``python`` fence (of all that it prints).  ``...`` in either stands for anything.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import inspect
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Grid
from gridsync.testing.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = re.compile(r"redis://localhost(:6379)?(/0)?")

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)``` *$", re.MULTILINE | re.DOTALL)
_PROMISE = re.compile(r"# ->\s*(?P<text>.*?)\s*$")
_SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass
class Fence:
    """One ``python`` fence."""

    line: int
    """Where its first line of code is, counted from 1."""
    code: str
    output: str | None
    """What the ``text`` fence after it says, if there is one."""


def fences(text: str) -> list[Fence]:
    """Find the ``python`` fences of a page, indented ones in lists and tabs included."""
    found = [(match, (match["info"].split() or [""])[0]) for match in _FENCE.finditer(text)]
    result = []
    for number, (match, language) in enumerate(found):
        if language not in {"python", "py"}:
            continue
        output = None
        if number + 1 < len(found):
            after, kind = found[number + 1]
            if kind == "text" and not text[match.end() : after.start()].strip():
                output = undent(after)
        result.append(Fence(text.count("\n", 0, match.start("body")) + 1, undent(match), output))
    return result


def undent(match: re.Match[str]) -> str:
    return re.sub(rf"^{match['indent']}", "", match["body"], flags=re.MULTILINE)


def same(want: str, got: str) -> bool:
    return doctest.OutputChecker().check_output(want.strip() + "\n", got.strip() + "\n", _SAME)


class Promises(ast.NodeTransformer):
    """Hand the value of each expression statement whose line ends with ``# -> text`` to a checker."""

    def __init__(self, code: str, first_line: int) -> None:
        self.promised = {
            number: found["text"]
            for number, line in enumerate(code.splitlines(), first_line)
            if (found := _PROMISE.search(line))
        }
        self.kept: set[int] = set()

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        line = node.end_lineno
        if line not in self.promised:
            return self.generic_visit(node)
        self.kept.add(line)
        call, prints = node.value, False
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print":
            prints = True
        name = ast.Name("__printed__" if prints else "__value__", ast.Load())
        args = call.args if prints else [node.value]
        checked = ast.Call(name, [ast.Constant(line), ast.Constant(self.promised[line]), *args], [])
        return ast.fix_missing_locations(ast.copy_location(ast.Expr(checked), node))


class Page:
    """A page's namespace: a module of its own, so that models and pickles of the fences find themselves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.module = ModuleType("fences_of_" + re.sub(r"\W", "_", str(path.stem)))
        self.module.__dict__["__printed__"] = self.printed
        self.module.__dict__["__value__"] = self.value

    def printed(self, line: int, want: str, *args: object) -> None:
        self.compare(line, want, " ".join(map(str, args)))
        print(*args)  # noqa: T201 - what the fence does

    def value(self, line: int, want: str, value: object) -> None:
        self.compare(line, want, repr(value))

    def compare(self, line: int, want: str, got: str) -> None:
        if not same(want, got):
            pytest.fail(f"{self.path.name}:{line} promises\n  {want}\nand gives\n  {got}", pytrace=False)

    def run(self, runner: asyncio.Runner, fence: Fence, url: str) -> None:
        """Run one fence and check what it promises."""
        code = ELSEWHERE.sub(url, fence.code)
        # Blank lines in front let tracebacks name the page's lines.
        tree = ast.parse("\n" * (fence.line - 1) + code, str(self.path))
        promises = Promises(code, fence.line)
        promises.visit(tree)
        lost = promises.promised.keys() - promises.kept
        assert not lost, f"{self.path.name}: '# ->' of lines {sorted(lost)} does not follow an expression"
        program = compile(tree, str(self.path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            result: Any = eval(program, self.module.__dict__)  # noqa: S307 - our own documentation
            if inspect.iscoroutine(result):
                runner.run(result)
        if fence.output is not None and not same(fence.output, output.getvalue()):
            pytest.fail(
                f"{self.path.name}:{fence.line} promises\n{fence.output}\nand prints\n{output.getvalue()}",
                pytrace=False,
            )


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server for one page, in ``REDIS_URL`` too."""
    with RedisServer() as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        yield server.url


def run(path: Path, url: str) -> int:
    page = Page(path)
    sys.modules[page.module.__name__] = page.module
    try:
        with asyncio.Runner() as runner:
            found = fences(path.read_text(encoding="utf-8"))
            for fence in found:
                page.run(runner, fence, url)
            return len(found)
    finally:
        del sys.modules[page.module.__name__]
        # Made once at import, as a program may: what a page defines (a task of Celery's) can be kept by its library.
        for value in vars(page.module).values():
            if isinstance(value, Grid):
                value.close()


@pytest.mark.parametrize(
    "path", [page for page in PAGES if fences(page.read_text("utf-8"))], ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_fences_of_a_page_do_what_they_say(path: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever copies an example gets what the page shows."""
    monkeypatch.chdir(tmp_path)
    assert run(path, url)


def write(tmp_path: Path, *lines: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text("\n".join(lines).replace("~~~", "```"), encoding="utf-8")
    return page


def test_fences_share_names_and_may_await(tmp_path: Path, url: str):
    page = write(
        tmp_path,
        "~~~python",
        "import asyncio",
        "x = await asyncio.sleep(0, 41)",
        "~~~",
        "- in a list",
        "",
        "  ~~~python",
        "  x + 1  # -> 42",
        "  for n in range(2):",
        "      print('n', n)  # -> n ...",
        "  ~~~",
        "",
        "  ~~~text",
        "  n 0",
        "  n 1",
        "  ~~~",
        "~~~python",
        "import os",
        "os.environ['REDIS_URL'] == 'redis://localhost:6379'  # -> True",
        "~~~",
    )
    assert run(page, url) == 3


@pytest.mark.parametrize(
    "lines",
    [
        ("~~~python", "1 + 1  # -> 3", "~~~"),
        ("~~~python", "if True:", "    print('a')  # -> b", "~~~"),
        ("~~~python", "print('a')", "~~~", "", "~~~text", "b", "~~~"),
        ("~~~python", "raise ValueError", "~~~"),
        ("~~~python", "x = 1  # -> 1", "~~~"),
    ],
)
def test_a_broken_promise_is_found(lines: tuple[str, ...], tmp_path: Path, url: str):
    with pytest.raises((pytest.fail.Exception, ValueError, AssertionError)):
        run(write(tmp_path, *lines), url)
