"""The page on the wire contract lists every key and every script of the events wing, and says of them what is so."""

from __future__ import annotations

import inspect
import re
from importlib import resources
from pathlib import Path

from gridsync._io.keys import EventKeys, events
from gridsync._io.scripts import load

PAGE = Path(__file__).parents[2] / "docs" / "events-wire-contract.md"


def rows(title: str) -> list[list[str]]:
    """Return the cells of the first table below the heading *title*."""
    below = PAGE.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in below.partition("\n|")[2].split("\n\n")[0].splitlines() if line.strip()]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in lines[2:]]


def keys() -> dict[str, str]:
    """Return every key of a store, with a letter for each name in it, and what its docstring says."""
    of = events("n", "store")
    field_docs = re.findall(r'^    (\w+): str\n    """(.*?)"""', inspect.getsource(EventKeys), re.DOTALL | re.MULTILINE)
    found = {getattr(of, name): text for name, text in field_docs if name != "base"}
    for name, member in vars(EventKeys).items():
        if isinstance(member, property):
            found[getattr(of, name)] = member.__doc__ or ""
        elif inspect.isfunction(member) and not name.startswith("_") and name not in ("count", "index"):
            words = list(inspect.signature(member).parameters)[1:]
            found[getattr(of, name)(*(f"<{word}>" for word in words))] = member.__doc__ or ""
    return {key.removeprefix(of.base): text for key, text in found.items()}


def test_every_key_is_on_the_page_with_its_type_and_whether_it_expires():
    """Who looks after the server finds a key that nobody explains, or backs up too few."""
    # The page calls names of things by other words than the code does; the structure is what counts.
    told = {re.sub("<[^>]*>", "<>", cells[0].strip("`").removeprefix("…")): cells[1:] for cells in rows("Keys")}
    there = {re.sub("<[^>]*>", "<>", key): text for key, text in keys().items()}
    assert told.keys() == there.keys()
    for key, (kind, content) in told.items():
        assert kind in there[key], f"{key} is no {kind}: {there[key]}"
        assert ("expires" in content) == ("expires" in there[key]), key
    lasting = PAGE.read_text(encoding="utf-8").partition("None of them expires but ")[2].partition(".\n")[0]
    expiring = {re.sub("<[^>]*>", "<>", key) for key in re.findall(r"`…([^`]*)`", lasting)}
    assert expiring == {key for key, text in there.items() if "expires" in text}


def test_every_script_is_on_the_page_with_its_category():
    """Who reviews what may happen twice would miss one."""
    told = {name: cells[1] for cells in rows("Scripts") for name in re.findall(r"`(\w+)`", cells[0])}
    folder = resources.files("gridsync.streams") / "lua"
    names = [entry.name.removesuffix(".lua") for entry in folder.iterdir() if entry.name.endswith(".lua")]
    assert told == {name: str(load("gridsync.streams", name).category) for name in names}
