"""Real servers of every kind found on this machine, and what `make faults` is told on its command line."""

from __future__ import annotations

import contextlib
import gc
import random
import signal
import threading
from itertools import groupby
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings

from gridsync.testing.leaks import leaked_keys
from gridsync.testing.servers import RedisServer, ServerKind, server_kinds
from tests.as_app import AppServer, wanted
from tests.wire.fake import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

SOAK_S = 8.0
"""How long one soak test breaks things unless ``--minutes`` says otherwise, in seconds."""
SHARE = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "tests that break things at random")
    group.addoption("--seed", type=int, help="repeat the run of this seed; a new one each time by default")
    group.addoption("--minutes", type=float, help="how long all soak tests together break things")
    parser.addoption("--as-app", action="store_true", help="be the user app everywhere, not at Valkey alone")
    parser.addoption("--every-server", action="store_true", help="run each test on each kind of server, not by turns")


def pytest_configure(config: pytest.Config) -> None:
    # How long an example takes is no claim: on a busy machine any of them may have to wait.
    settings.register_profile("gridsync", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("gridsync")
    # What a shell starts in the background ignores Ctrl-C, and so would the processes that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.seed is None:
        said = getattr(config, "workerinput", {})
        config.option.seed = said.get("seed", random.SystemRandom().randrange(1_000_000))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - one of pytest-xdist's processes
    """All processes of one run have one seed, for they must find the same tests."""
    node.workerinput["seed"] = node.config.option.seed


def pytest_report_header(config: pytest.Config) -> str:
    return f"faults: --seed {config.option.seed}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fresh_seed" in metafunc.fixturenames:
        # In the test's name, so that whoever sees it fail can repeat it.
        metafunc.parametrize("fresh_seed", [metafunc.config.option.seed], ids=lambda seed: f"seed-{seed}")


def _kind(item: pytest.Item) -> ServerKind | None:
    given = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    return next((value for value in given if isinstance(value, ServerKind)), None)


def _told_apart_by_server(items: list[pytest.Item]) -> Iterator[list[pytest.Item]]:
    """Yield the items that differ only in the kind of server, case by case of each test function."""
    cases: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in items:
        if (kind := _kind(item)) is not None:
            function = item.nodeid.partition("[")[0]
            cases.setdefault((function, item.nodeid.replace(str(kind), "", 1)), []).append(item)
    for _, of_one in groupby(cases.items(), key=lambda case: case[0][0]):
        # The cases of one function begin anywhere and go on by turns, so that three of them see three kinds.
        for turn, (name, same) in enumerate(of_one):
            at = (crc32(name[0].encode()) + turn) % len(same)
            yield same[at:] + same[:at]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Share the tests among the kinds of server, and the minutes among the soak tests that were chosen."""
    every = config.option.every_server
    again = {
        item
        for same in _told_apart_by_server(items)
        for item in same[1:]
        if not every or item.get_closest_marker("any_server")
    }
    if again:
        config.hook.pytest_deselected(items=list(again))
        items[:] = [item for item in items if item not in again]
    soaks = [item for item in items if "soak_s" in getattr(item, "fixturenames", ())]
    minutes: float | None = config.option.minutes
    config.stash[SHARE] = SOAK_S if minutes is None else minutes * 60 / max(1, len(soaks))
    for item in soaks:
        item.add_marker(pytest.mark.timeout(120 + config.stash[SHARE]))


def pytest_collection_finish() -> None:
    """Hide what was collected from ``gc.collect``: it stays for good, and to walk through all of it takes 0.3 s."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fails a module that leaves a thread of gridsync's, rather than whichever module looks for threads next."""
    before = set(threading.enumerate())

    def left() -> list[str]:
        gc.collect()  # a grid that was dropped takes its threads along
        return [t.name for t in threading.enumerate() if t.name.startswith("gridsync") and t not in before]

    yield
    with contextlib.suppress(AssertionError):
        eventually(lambda: not left(), limit_s=10)
    assert not left()


@pytest.fixture
def soak_s(request: pytest.FixtureRequest) -> float:
    """How long this soak test breaks things, in seconds: its share of ``--minutes``."""
    return request.config.stash[SHARE]


@pytest.fixture(scope="session", params=server_kinds(), ids=str)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A running server, once per kind found; not emptied between tests (see `flushed`)."""
    kind: ServerKind = request.param
    with AppServer(kind) if wanted(request.config, kind) else RedisServer(kind) as running:
        yield running


@pytest.fixture
def flushed(server: RedisServer, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """The server, empty; fails the test if it leaves a key that neither expires nor may stay for ever.

    A test that leaves such keys on purpose says so: ``@pytest.mark.leaves_keys``.
    """
    server.start()
    server.command("FLUSHALL")
    yield server
    if request.node.get_closest_marker("leaves_keys") is None and server.running:
        with server.client() as client:
            leaked = leaked_keys(client)
        assert not leaked, f"keys without a TTL that no one listed as permanent: {leaked}"
