"""What the site's builder does not look at by itself: it checks links between pages, and their anchors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MADE = {"index.md", "changelog.md", "wire-contract.md"}
"""The pages that a script makes."""


def test_every_page_is_in_the_menu_and_every_entry_is_a_page():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    entries = re.findall(r": (\S+\.md)$", menu, re.MULTILINE)
    assert len(entries) == len(set(entries))
    assert set(entries) == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} | MADE


def test_every_picture_is_there():
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    shown = [(page, path) for page in pages for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text())]
    assert [(page.name, path) for page, path in shown if not (page.parent / path).is_file()] == []
    assert shown


def prose(page: Path) -> str:
    """Return what a page says outside of its fences."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def headings(page: Path) -> set[str]:
    """Return the names by which the site's builder lets others link to the headings of a page."""
    shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", "\n".join(re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)))
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", each).strip().lower()) for each in shown.splitlines()}


def test_every_link_to_a_heading_finds_it():
    """The builder refuses a page with such a link, and is asked by nobody who changes a sentence."""
    links = [
        (page, path, anchor)
        for page in [ROOT / "README.md", *DOCS.rglob("*.md")]
        for path, anchor in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", prose(page))
    ]
    assert len(links) > 150
    lost = [
        (page.name, path, anchor)
        for page, path, anchor in links
        if Path(path).name not in MADE and anchor not in headings(page.parent / path if path else page)
    ]
    assert lost == []


def test_no_row_stands_outside_of_a_table():
    """An empty line ends a table, and the rows behind it are shown as they are written."""
    lost = []
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        text = prose(page)
        tables = re.findall(r"(?:^ *\|.*\n)+", text, re.MULTILINE)
        lost += [(page.name, table) for table in tables if not re.match(r".*\n *\|[ :|-]+\|\n", table)]
    assert lost == []


def test_the_figures_are_drawn_as_they_stand_in_the_file(plots: Any):  # noqa: ANN401
    """Draw them anew with ``python -m docs._plots``."""
    assert plots.PICTURE.read_text(encoding="utf-8") == plots.picture()


def test_the_first_page_links_within_the_site(pages: Any):  # noqa: ANN401
    linked = re.findall(r"\]\(([^)#]+\.md)[^)]*\)", pages.home())
    assert linked
    assert [path for path in linked if not (DOCS / path).is_file()] == []


def test_the_readme_shows_the_run_that_the_picture_shows():
    """Run it anew with ``python -m docs._demo``."""
    said, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/demo.txt", "README.md"))
    report = said[said.index("\ngridsync demo on ") + 1 :]
    assert f"```text\n{report}```\n" in readme


def test_the_wire_contract_has_every_script_with_its_category(pages: Any):  # noqa: ANN401
    page = pages.contract()
    paths = sorted((ROOT / "src" / "gridsync").glob("*/lua/*.lua"))
    told = dict(re.findall(r'^\?\?\? note "(\w+): ([a-z-]+)"$', page, re.MULTILINE))
    declared = {path.stem: re.findall(r"^-- Category (\S+)", path.read_text(), re.MULTILINE)[0] for path in paths}
    assert told == declared
    assert page.count("??? note") == len(paths)
