"""Every sentinel, asked what it knows: whether they agree, and whether each of them could carry out a failover."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from gridsync._io.wire import blocking
from gridsync._io.wire.faults import ReplyError
from gridsync.health import Item
from gridsync.ops.nodes import table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gridsync._io.route.primary import Primary
    from gridsync._io.wire.endpoint import Endpoint

_T = TypeVar("_T")

SENTINELS_MAX: Final = 50
"""How many are asked."""
AT_ONCE: Final = 8
_DOWN: Final = frozenset({"s_down", "o_down", "disconnected"})


@dataclass(frozen=True, slots=True)
class View:
    """What one sentinel knows."""

    endpoint: Endpoint
    failure: Exception | None = None
    """Why it could not be asked."""
    id: str = ""
    primary: str = ""
    flags: frozenset[str] = frozenset()
    """Of the primary."""
    quorum: int = 0
    epoch: int = 0
    """The version of the configuration: each failover makes the next."""
    replicas: frozenset[str] = frozenset()
    down: frozenset[str] = frozenset()
    """Those replicas that it does not reach."""
    others: tuple[tuple[str, str, int], ...] = ()
    """The other sentinels: id, host, port."""


def examine(place: Primary, timeout: float) -> list[tuple[str, list[Item]]]:
    """Ask the sentinels that the URL names and those that these know, each for at most *timeout* seconds.

    Cost: one connection and one batch of four questions for each; they are asked eight at a time, in two rounds.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:

        def ask(endpoints: Iterable[Endpoint]) -> list[View]:
            return list(pool.map(lambda endpoint: _ask(endpoint, place.service, timeout), endpoints))

        views = {view.id or str(view.endpoint): view for view in ask(sorted(place.sentinels, key=str))}
        told = {other for view in views.values() for other in view.others}
        named = {str(view.endpoint) for view in views.values()}
        like = place.sentinels[0]
        unseen = {id_: replace(like, host=host, port=port) for id_, host, port in sorted(told) if id_ not in views}
        more = [endpoint for endpoint in unseen.values() if str(endpoint) not in named]
        for view in ask(more[: max(SENTINELS_MAX - len(views), 0)]):
            views.setdefault(view.id or str(view.endpoint), view)
    return [(str(view.endpoint), [_judged(view, list(views.values()))]) for view in views.values()]


def _ask(endpoint: Endpoint, service: str, timeout: float) -> View:
    questions = [("SENTINEL", "MYID"), *(("SENTINEL", what, service) for what in ("MASTER", "REPLICAS", "SENTINELS"))]
    try:
        wire = blocking.connect(endpoint, timeout=timeout, met_before=True)
        try:
            replies = wire.exchange_many(questions, timeout)
        finally:
            wire.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is told
        return View(endpoint, error)
    refused = next((reply for reply in replies if isinstance(reply, ReplyError)), None)
    if refused is not None:
        return View(endpoint, refused)
    primary, replicas, others = table(replies[1]), [*map(table, replies[2])], [*map(table, replies[3])]
    return View(
        endpoint,
        id=replies[0].decode(),
        primary=_address(primary),
        flags=_flags(primary),
        quorum=int(primary["quorum"]),
        epoch=int(primary["config-epoch"]),
        replicas=frozenset(_address(each) for each in replicas),
        down=frozenset(_address(each) for each in replicas if _flags(each) & _DOWN),
        others=tuple((each["runid"], each["ip"], int(each["port"])) for each in others),
    )


def _judged(view: View, views: Sequence[View]) -> Item:
    if isinstance(view.failure, ReplyError) and view.failure.code == "NOPERM":
        advice = "grant this user +sentinel|myid +sentinel|master +sentinel|replicas +sentinel|sentinels"
        return Item("sentinel", "unknown", "not permitted", "", advice)
    if isinstance(view.failure, ReplyError):
        return Item("sentinel", "degraded", str(view.failure), "", "let it monitor the service as the others do")
    if view.failure is not None:
        text = str(view.failure)
        advice = "see whether it runs, and which address it announces; one that is gone for good SENTINEL RESET forgets"
        return Item("sentinel", "degraded", text, "", advice)
    text = (
        f"{view.primary}, {len(view.replicas)} replicas, {len(view.others)} other sentinels, "
        f"configuration {view.epoch}, quorum {view.quorum}"
    )
    problem = _problem(view, [each for each in views if each.failure is None])
    return Item("sentinel", "degraded" if problem else "ok", text, "", problem)


def _problem(view: View, views: Sequence[View]) -> str:
    """Return what *view* has that the others have not, or lacks; the worst, and what to do about it."""
    primary, epoch = _most(each.primary for each in views), max(each.epoch for each in views)
    if view.primary != primary:
        return (
            f"most name {primary}: clients that ask this one find another server; if no failover is under way, see "
            "whether it reaches that one, and let it begin anew with SENTINEL REMOVE and MONITOR"
        )
    if view.flags & _DOWN:
        return "it does not reach the primary, as which user it comes there or over which network: see its log"
    if view.epoch != epoch:
        return f"others have configuration {epoch}: it has missed a failover, so see whether it reaches {primary}"
    if view.quorum != (quorum := _most(each.quorum for each in views)):
        return f"most have quorum {quorum}: SENTINEL SET quorum makes them agree when a failover is due"
    replicas = set[str]().union(*(each.replicas for each in views)) - {primary}
    if unknown := sorted(replicas - view.replicas):
        return (
            f"it does not know the replica {unknown[0]}, and would not promote it: see whether it reaches the primary"
        )
    known = {id_ for id_, _, _ in view.others}
    if strangers := [str(each.endpoint) for each in views if each is not view and each.id not in known]:
        return f"it does not know the sentinel {strangers[0]}: they meet by a channel at {primary}, if both may use it"
    if view.down:
        return f"it does not reach the replica {min(view.down)}: see whether that runs; SENTINEL RESET forgets it"
    return ""


def _most(found: Iterable[_T]) -> _T:
    return Counter(found).most_common(1)[0][0]


def _flags(told: dict[str, str]) -> frozenset[str]:
    return frozenset(told["flags"].split(","))


def _address(told: dict[str, str]) -> str:
    return f"{told['ip']}:{told['port']}"
