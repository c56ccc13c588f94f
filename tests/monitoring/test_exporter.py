"""The exporter as the user that `gridsync setup` makes for it."""

from __future__ import annotations

import re
import subprocess
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Final

import pytest

from gridsync.ops import acl
from gridsync.ops.roles import ROLES
from gridsync.testing._ports import hold_port
from gridsync.testing.servers import RedisServer, ServerKind, server_kinds
from tests.monitoring.observatory import wait_for
from tests.monitoring.rules import MONITORING, RULES

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("tools")

NOT_THERE: Final = {
    "redis_connected_slave_lag_seconds": "there is no replica",
    "redis_connected_slave_offset_bytes": "there is no replica",
    "redis_master_link_up": "it is no replica",
    "redis_exporter": "no metric, but a program",
}


def families(server: RedisServer, user: str, folder: Path) -> set[str]:
    """Return the names of all metrics that the exporter shows when it logs in as *user*."""
    with hold_port("127.0.0.1") as held, (folder / f"{user}.log").open("wb") as log:
        at = f"127.0.0.1:{held.getsockname()[1]}"
        words = f"prometheus-redis-exporter --web.listen-address={at} --redis.addr=redis://127.0.0.1:{server.port}"
        login = ["--redis.user", user, "--redis.password", "secret"]
        exporter = subprocess.Popen([*words.split(), *login], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            shown: list[str] = []

            def asked() -> bool:
                try:
                    with urllib.request.urlopen(f"http://{at}/metrics", timeout=60) as answer:
                        shown.append(answer.read().decode())
                except (urllib.error.URLError, ConnectionError):
                    return False
                return True

            wait_for(asked, (folder / f"{user}.log").read_text)
        finally:
            exporter.kill()
            exporter.wait()
    assert "\nredis_up 1\n" in shown[0]
    return set(re.findall(r"(?m)^(redis_\w+)", shown[0]))


@pytest.mark.parametrize("kind", server_kinds(), ids=str)
def test_its_user_sees_what_dashboards_and_alerts_ask_for(kind: ServerKind, tmp_path: Path):
    """What its user may not ask for is missing without a word, and no alert about it ever rings."""
    with RedisServer(kind) as asked, asked.client() as client:
        without = acl.asked(client)
    users = [acl.line(ROLES["exporter"], [acl.hashed("secret")], without), "user all on >secret ~* &* +@all"]
    options = {"appendonly": "yes", "maxmemory": "100mb"}
    with RedisServer(kind, users=users, options=options) as server:
        with server.client() as client, pytest.raises(Exception, match="syntax"):
            client.execute_command("SET", "key", "value", "nonsense")
        seen, all_of_it = (families(server, user, tmp_path) for user in ("exporter", "all"))
    files = [*RULES, *(MONITORING / "grafana" / "dashboards").glob("*.json")]
    wanted = {name for file in files for name in re.findall(r"\bredis_[a-z0-9_]+", file.read_text())}
    assert wanted - seen - NOT_THERE.keys() == set()
    assert all_of_it - seen == set(), "or the table of roles lacks something"
