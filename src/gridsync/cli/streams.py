"""`gridsync streams`: what groups of an event store have given up, and how an operator gives it back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gridsync.cli._shared import DONE, NOTHING, asking, complain, open_grid, print_json, raw_store, shown, tell_missing

if TYPE_CHECKING:
    from gridsync.streams import DeadLetter


@dataclass(frozen=True, slots=True)
class Choice:
    """Which dead letters are meant; what is ``None`` does not matter."""

    error: str | None
    stream: str | None
    type: str | None
    id: str | None

    def __call__(self, letter: DeadLetter) -> bool:
        """Tell whether *letter* is meant."""
        return all(wanted in (None, getattr(letter, name)) for name, wanted in asdict(self).items())


def dlq(
    store: str, group: str, choice: Choice, *, most: int, url: str | None, namespace: str | None, as_json: bool
) -> int:
    """Print the dead letters of a group; returns 0, 1 if there are none, 2 if nobody answers."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        opened = raw_store(grid, store)
        letters = opened.group(group).dead_letters()
        found: list[DeadLetter] = []
        for letter in letters:
            if choice(letter):
                found.append(letter)
                if len(found) == most:
                    break
        total = letters.count()
        if as_json:
            print_json({"store": store, "group": group, "total": total, "letters": [_plain(each) for each in found]})
        else:
            for letter in found:
                print(_line(letter))
            print(f"{len(found)} of {total} dead letters of {shown(store)} {shown(group)}")
            if not total:
                tell_missing(opened.info(), group)
        outcome.append(DONE if found else NOTHING)
    return outcome[0]


def replay(
    store: str,
    group: str,
    choice: Choice,
    *,
    dry_run: bool,
    rate: float | None,
    most: int | None,
    url: str | None,
    namespace: str | None,
    as_json: bool,
) -> int:
    """Give dead letters back; returns 0, 1 if none was chosen, 2 if nobody answers."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        opened = raw_store(grid, store)
        done = opened.group(group).dead_letters().replay(choice, dry_run=dry_run, rate=rate, limit=most)
        if as_json:
            print_json({"store": store, "group": group, "dry_run": dry_run, **asdict(done)})
        elif dry_run:
            print(f"{done.matched} dead letters would be given back")
        else:
            print(
                f"{done.replayed} of {done.matched} dead letters were given back; {done.gone} were gone meanwhile, "
                f"{done.trimmed} are no longer in the log and stay"
            )
        if not done.matched and not as_json:
            tell_missing(opened.info(), group)
        outcome.append(DONE if done.matched else NOTHING)
    return outcome[0]


def discard(store: str, group: str, letter: str, *, url: str | None, namespace: str | None, as_json: bool) -> int:
    """Delete one dead letter; returns 0, 1 if it was not there, 2 if nobody answers."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        opened = raw_store(grid, store)
        done = opened.group(group).dead_letters().discard(letter)
        if as_json:
            print_json({"store": store, "group": group, "id": letter, "discarded": done})
        else:
            print(f"{shown(letter)}: {'discarded' if done else 'nothing was discarded'}")
            if not done and not tell_missing(opened.info(), group):
                complain(
                    f"there is no dead letter {shown(letter)}", "`gridsync streams dlq` lists those that there are"
                )
        outcome.append(DONE if done else NOTHING)
    return outcome[0]


def _plain(letter: DeadLetter) -> dict[str, Any]:
    """Return a letter as JSON has it: what the event holds as text, with signs in place of bytes that are none."""
    raw = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in letter.raw.items()}
    return {**asdict(letter), "raw": raw}


def _line(letter: DeadLetter) -> str:
    return (
        f"{letter.id}: position {letter.position}, {shown(letter.type)} of {shown(letter.stream)}, {letter.attempts} "
        f"attempts from {letter.first:%Y-%m-%d %H:%M:%S} to {letter.last:%Y-%m-%d %H:%M:%S} UTC, last by "
        f"{shown(letter.consumer)}: {shown(letter.error)}: {shown(letter.text)}"
    )
