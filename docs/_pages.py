"""Make the pages that are written elsewhere: ``python docs/_pages.py FOLDER``.

The README is the first page too, the changelog is made of the news fragments, and the wire contract of the scripts'
headers: each is written once.
"""

from __future__ import annotations

import inspect
import itertools
import re
import subprocess
import sys
from pathlib import Path

from gridsync._io import keys, load

ROOT = Path(__file__).parents[1]


def home() -> str:
    """Return the README, with its links seen from the documentation."""
    return (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")


def changelog() -> str:
    """Return what was released, and above it what has changed since."""
    towncrier = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "Unreleased", "--date", "next"]
    draft = subprocess.run(towncrier, cwd=ROOT, check=True, capture_output=True, text=True).stdout  # noqa: S603 - nothing of it comes from elsewhere
    released = ROOT / "CHANGELOG.md"
    older = released.read_text(encoding="utf-8") if released.exists() else ""
    return f"# Changelog\n\n{draft[draft.index('## ') :]}\n{older}"


CONTRACT = """# Wire contract

Every key that gridsync writes, and every script that writes it: what another program may rely on, and what an operator
finds on the server. This page is made of the code, of `_io/keys.py` and of the first lines of each script, which tests
hold to what the scripts do. The [event store](events-wire-contract.md) has a page with more.

All keys of one entity begin with the same hash tag, `{namespace:wing:name}`, and lie in one slot of a Cluster; braces
and percent signs in names are escaped by percent, and colons in the namespace. Scripts are called by `EVALSHA`, and
loaded when the server does not know them. Their numbers are integers, of milliseconds or microseconds of its clock.

The category says what a lost reply means: `read` and `idempotent` are simply sent again; `last-wins` is, too, and may
overwrite what came between; an `accumulating` one is sent again only because it carries an id by which the server knows
it; `never` is not, and becomes `OutcomeUnknown`.
"""


def contract() -> str:
    """Return all keys and all scripts."""
    found = [CONTRACT, "## Keys\n"]
    for kind in (each for each in vars(keys).values() if inspect.isclass(each) and each.__module__ == keys.__name__):
        fields = re.findall(r'^    (\w+): str\n    """(.*?)"""', inspect.getsource(kind), re.DOTALL | re.MULTILINE)
        rows = [f"| `{name}` | {' '.join(text.split()).replace('|', '&#124;')} |" for name, text in fields]
        if rows:
            about = inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]
            found += [f"### {about.rstrip('.')}\n", "| | type and content |\n|---|---|", *rows, ""]
    for folder in sorted((ROOT / "src" / "gridsync").glob("*/lua")):
        wing = folder.parent.name
        found.append(f"## Scripts of {wing}\n")
        for path in sorted(folder.glob("*.lua")):
            script = load(f"gridsync.{wing}", path.stem)
            lines = itertools.takewhile(lambda line: line.startswith("--"), script.source.splitlines()[1:])
            body = "\n".join(f"    {line[2:].removeprefix(' ')}" for line in lines)
            found.append(f'??? note "{path.stem}: {script.category}"\n\n    ```text\n{body}\n    ```\n')
    return "\n".join(found)


def main() -> None:
    """Write them."""
    folder = Path(sys.argv[1])
    (folder / "index.md").write_text(home(), encoding="utf-8")
    (folder / "wire-contract.md").write_text(contract(), encoding="utf-8")
    (folder / "changelog.md").write_text(changelog(), encoding="utf-8")


if __name__ == "__main__":
    main()
