"""Real servers of every kind found on this machine, and what `make faults` is told on its command line."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from gridsync.testing.leaks import leaked_keys
from gridsync.testing.servers import RedisServer, ServerKind, server_kinds

if TYPE_CHECKING:
    from collections.abc import Iterator

SOAK_S = 8.0
"""How long one soak test breaks things unless ``--minutes`` says otherwise, in seconds."""
SHARE = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "tests that break things at random")
    group.addoption("--seed", type=int, help="repeat the run of this seed; a new one each time by default")
    group.addoption("--minutes", type=float, help="how long all soak tests together break things")


def pytest_configure(config: pytest.Config) -> None:
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
    return (
        item.callspec.params.get("server") if isinstance(item, pytest.Function) and hasattr(item, "callspec") else None
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Share the minutes among the soak tests that were chosen; leave out what other kinds of server say again."""
    others = server_kinds()[1:]
    again = [i for i in items if i.get_closest_marker("any_server") and _kind(i) in others]
    if again:
        config.hook.pytest_deselected(items=again)
        items[:] = [item for item in items if item not in set(again)]
    soaks = [item for item in items if "soak_s" in getattr(item, "fixturenames", ())]
    minutes: float | None = config.option.minutes
    config.stash[SHARE] = SOAK_S if minutes is None else minutes * 60 / max(1, len(soaks))
    for item in soaks:
        item.add_marker(pytest.mark.timeout(120 + config.stash[SHARE]))


@pytest.fixture
def soak_s(request: pytest.FixtureRequest) -> float:
    """How long this soak test breaks things, in seconds: its share of ``--minutes``."""
    return request.config.stash[SHARE]


@pytest.fixture(scope="session", params=server_kinds(), ids=str)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A running server, once per kind found; not emptied between tests (see `flushed`)."""
    kind: ServerKind = request.param
    with RedisServer(kind) as running:
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
