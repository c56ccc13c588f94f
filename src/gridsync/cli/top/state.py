"""What a person has chosen to see, and what each key changes about it; nothing here draws or reads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gridsync.cli.top.model import Focus

SECTIONS: Final = ("locks", "limits", "streams", "caches", "servers")
PAGE: Final = 10
_MOVES: Final = {"down": 1, "j": 1, "up": -1, "k": -1, "page down": PAGE, "page up": -PAGE}


@dataclass(frozen=True, slots=True)
class State:
    """Which section is shown, what of it is chosen, and whether it stands still."""

    section: str = SECTIONS[0]
    chosen: Mapping[str, str] = field(default_factory=dict)
    """By section, the ``id`` of the row that is chosen: rows come and go around it."""
    places: Mapping[str, int] = field(default_factory=dict)
    """By section, where that row was: when it is gone, the one that is there now is chosen."""
    inspecting: bool = False
    """Whether all about the chosen row is shown."""
    paused: bool = False
    over: bool = False
    """Whether to end."""

    def place(self, ids: Sequence[str]) -> int:
        """Return which of *ids*, the rows of the section, is chosen; 0 if there are none."""
        chosen = self.chosen.get(self.section)
        if chosen in ids:
            return ids.index(chosen)
        return max(0, min(self.places.get(self.section, 0), len(ids) - 1))

    def focus(self, ids: Sequence[str]) -> Focus | None:
        """Return what is inspected."""
        return (self.section, ids[self.place(ids)]) if self.inspecting and ids else None


def pressed(state: State, key: str, ids: Sequence[str]) -> State:
    """Return what is seen after *key*; *ids* are the rows of the section."""
    if key == "q":
        return replace(state, over=True)
    if key == "p":
        return replace(state, paused=not state.paused)
    if key in ("tab", "right", "back tab", "left"):
        turn = 1 if key in ("tab", "right") else -1
        section = SECTIONS[(SECTIONS.index(state.section) + turn) % len(SECTIONS)]
        return replace(state, section=section, inspecting=False)
    if key == "enter":
        return replace(state, inspecting=bool(ids) and not state.inspecting)
    if key == "escape":
        return replace(state, inspecting=False)
    ends = {"home": 0, "end": len(ids) - 1}
    if not ids or key not in {**_MOVES, **ends}:
        return state
    place = max(0, min(ends.get(key, state.place(ids) + _MOVES.get(key, 0)), len(ids) - 1))
    chosen = {**state.chosen, state.section: ids[place]}
    return replace(state, chosen=chosen, places={**state.places, state.section: place})
