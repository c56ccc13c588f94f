"""SQL statements that a stale holder of a lock cannot run: rows that remember the latest holder that wrote them.

A table that a lock protects gets two columns more, ``fence BIGINT NOT NULL DEFAULT 0`` and ``fence_owner VARCHAR(64)
NOT NULL DEFAULT ''``.  Every write carries fence and owner of the holder's lease, and a condition::

    from gridsync.locks.sql import FencedTable

    accounts = FencedTable("accounts", key="id")
    update = accounts.update("balance")
    cursor.execute(*update.bind(lease, id=7, balance=120))
    update.check(cursor.rowcount, lease)

Fences rise from holder to holder.  In a split network two holders may have the same one; of those the one with the
larger owner counts as the later.

The statements are standard SQL but for ``ON CONFLICT``, which PostgreSQL and SQLite have.  Nothing here talks to a
database.
"""

# ruff: noqa: S608 - the names in the text are plain identifiers, which the constructor checks; values are parameters

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gridsync.errors import StaleFence, UsageError
from gridsync.locks._stamp import stamp_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gridsync.locks._stamp import Fenced

__all__ = ["FencedStatement", "FencedTable", "ParamStyle"]

ParamStyle = Literal["named", "pyformat", "qmark", "format", "dollar"]
"""How a driver writes parameters: ``:id``, ``%(id)s``, ``?``, ``%s`` (PEP 249), or ``$1`` (asyncpg)."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MARKS: dict[str, Callable[[str, int], str]] = {
    "named": lambda name, _: f":{name}",
    "pyformat": lambda name, _: f"%({name})s",
    "qmark": lambda _name, _: "?",
    "format": lambda _name, _: "%s",
    "dollar": lambda _, place: f"${place}",
}


@dataclass(frozen=True, slots=True)
class FencedStatement:
    """One statement, whose effect depends on the lease under which it is made."""

    table: str
    text: str
    """The SQL, with the parameters in the driver's style."""
    names: tuple[str, ...]
    """The columns whose values the parameters are, in order; some styles need one twice."""
    by_name: bool
    """Whether the driver takes a mapping of parameters, not a sequence."""

    def bind(self, lease: Fenced, /, **values: object) -> tuple[str, dict[str, object] | tuple[object, ...]]:
        """Return the text and the parameters, ready for ``cursor.execute(*…)``.

        Args:
            lease: The `Lease` under which it is made, or its `Stamp`; it fills the columns of fence and owner.
            **values: A value for each other column of the statement.

        Raises:
            UsageError: A value is missing or has no column, or *lease* has no fence.
        """
        fence, owner = stamp_of(lease)
        wanted = set(self.names) - {"fence", "fence_owner"}
        if wanted != set(values):
            raise UsageError(
                f"the statement on {self.table!r} takes {', '.join(sorted(wanted))}, not {', '.join(sorted(values))}"
            )
        given = {**values, "fence": fence, "fence_owner": owner}
        if self.by_name:
            return self.text, given
        return self.text, tuple(given[name] for name in self.names)

    def check(self, rowcount: int, lease: Fenced) -> None:
        """Raise unless the statement wrote a row.

        Args:
            rowcount: What the driver says how many rows were written, such as ``cursor.rowcount``.
            lease: The one under which it was made.

        Raises:
            StaleFence: No row was written: a later holder wrote before, or there is no such row.
            UsageError: The driver does not tell how many rows were written (-1).
        """
        fence, _ = stamp_of(lease)
        if rowcount < 0:
            raise UsageError(f"the driver does not say how many rows of {self.table!r} were written; use RETURNING")
        if rowcount == 0:
            raise StaleFence(
                f"the write to {self.table!r} with fence {fence} changed no row: a later holder wrote it before, and "
                f"your lease is lost, or there is no such row",
                name=self.table,
                fence=fence,
                seen=None,
            )


class FencedTable:
    """A table whose rows remember the latest holder that wrote them.

    Guarantee: no statement of this table changes a row that a later holder wrote: one with a larger fence, or with the
    same fence and a larger owner.
    Not guaranteed: anything for statements that leave out the condition; one holder may write as often as it likes,
    and a statement repeated after a lost reply is a second one (use the database's transactions).
    Cost: two comparisons for each row that the key selects.
    """

    def __init__(
        self,
        table: str,
        *,
        key: str | Sequence[str],
        fence: str = "fence",
        owner: str = "fence_owner",
        paramstyle: ParamStyle = "named",
    ) -> None:
        """Check the names, since they become part of the text.

        Args:
            table: The table, perhaps with its schema: ``"market.accounts"``.
            key: The column or columns that select one row.
            fence: The column that remembers the fence: ``BIGINT NOT NULL DEFAULT 0``.
            owner: The column that remembers whose it is: ``VARCHAR(64) NOT NULL DEFAULT ''``.  A row that has a fence
                and no owner yet, since the column is new, takes every owner with its fence.
            paramstyle: How the driver writes parameters.

        Raises:
            UsageError: A name is not a plain SQL identifier, or there is no such *paramstyle*.
        """
        self._table = ".".join(_identifier(part) for part in table.split("."))
        self._keys = tuple(_identifier(name) for name in ([key] if isinstance(key, str) else key))
        self._fence, self._owner = _identifier(fence), _identifier(owner)
        ours = dict.fromkeys((self._fence, self._owner, "fence", "fence_owner"))
        self._taken = (*self._keys, *ours)
        if not self._keys or ours.keys() & set(self._keys):
            raise UsageError(f"table {table!r} needs a key: the column that selects one row, and not the fence")
        if self._fence == self._owner:
            raise UsageError(f"table {table!r} needs two columns more, for the fence and for its owner")
        if paramstyle not in _MARKS:
            raise UsageError(f"paramstyle must be one of {', '.join(_MARKS)}, not {paramstyle!r}")
        self._style = paramstyle

    def update(self, *columns: str) -> FencedStatement:
        """Return the statement that sets *columns* of one row.

        Raises:
            UsageError: There is no column, or its name is not a plain SQL identifier or taken.
        """
        names = self._columns(columns)
        sets = ", ".join(f"{column} = {{{column}}}" for column in names)
        return self._statement(
            f"UPDATE {self._table} SET {sets}, {self._fence} = {{fence}}, {self._owner} = {{fence_owner}} "
            f"WHERE {self._selected()}"
        )

    def upsert(self, *columns: str) -> FencedStatement:
        """Return the statement that inserts a row with *columns*, or sets them; for PostgreSQL and SQLite 3.24.

        Raises:
            UsageError: There is no column, or its name is not a plain SQL identifier or taken.
        """
        names = self._columns(columns)
        own = self._table.rpartition(".")[2]
        values = ", ".join(f"{{{column}}}" for column in (*self._keys, *names, "fence", "fence_owner"))
        sets = ", ".join(f"{column} = excluded.{column}" for column in (*names, self._fence, self._owner))
        return self._statement(
            f"INSERT INTO {self._table} ({', '.join((*self._keys, *names, self._fence, self._owner))}) "
            f"VALUES ({values}) ON CONFLICT ({', '.join(self._keys)}) DO UPDATE SET {sets} "
            f"WHERE {self._not_later(f'{own}.')}"
        )

    def delete(self) -> FencedStatement:
        """Return the statement that deletes one row.

        What was deleted remembers no fence: a stale holder may insert it again.  Where that matters, mark rows as
        deleted with `update`.
        """
        return self._statement(f"DELETE FROM {self._table} WHERE {self._selected()}")

    def _selected(self) -> str:
        keys = " AND ".join(f"{column} = {{{column}}}" for column in self._keys)
        return f"{keys} AND ({self._not_later()})"

    def _not_later(self, row: str = "") -> str:
        fence, owner = f"{row}{self._fence}", f"{row}{self._owner}"
        return f"{fence} < {{fence}} OR {fence} = {{fence}} AND {owner} <= {{fence_owner}}"

    def _columns(self, columns: Sequence[str]) -> tuple[str, ...]:
        names = tuple(_identifier(column) for column in columns)
        if not names or len({*names, *self._taken}) < len(names) + len(self._taken):
            raise UsageError(f"name the columns to write, each once and none of {', '.join(self._taken)}")
        return names

    def _statement(self, template: str) -> FencedStatement:
        names: list[str] = []

        def mark(found: re.Match[str]) -> str:
            name = found[1]
            if self._style != "dollar" or name not in names:
                names.append(name)
            return _MARKS[self._style](name, names.index(name) + 1)

        text = re.sub(r"\{(\w+)\}", mark, template)
        return FencedStatement(self._table, text, tuple(names), self._style in {"named", "pyformat"})

    def __repr__(self) -> str:
        return f"<FencedTable {self._table!r} fence={self._fence!r} owner={self._owner!r}>"


def _identifier(name: str) -> str:
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
        raise UsageError(f"{name!r:.100} is not a plain SQL identifier: letters, digits and underscores")
    return name
