"""The alerts as they are written, and a copy of them that a test need not wait for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

MONITORING: Final = Path(__file__).parents[2] / "docker" / "monitoring"
CONFIG: Final = MONITORING / "prometheus" / "prometheus.yml"
RULES: Final = sorted((MONITORING / "prometheus" / "rules").glob("*.yml"))
CUTS: Final = {
    "RedisPrimaryChanged": (" offset 15m", " offset 8s"),
    "RedisRefusesWrites": ("and on (instance) (redis_up offset 5m == 1)", ""),
    "RedisReplicaLags": ("> 10", "> 2"),
    "GridsyncLockWaitsLong": ("> 10", "> 0.1"),
    "GridsyncGroupStuck": ("> 300", "> 1"),
    "GridsyncGroupFallsBehind": ("> 1000", "> 20"),
    "GridsyncOutboxStuck": ("> 60", "> 1"),
    "GridsyncMirrorBehind": ("> 60", "> 1"),
    "GridsyncLogHeld": ("> 1e6", "> 5"),
}
"""What else is cut beside the for-times: minutes and millions that no test waits for.  promtool's tests are about the
alerts as they are (test_rules.py)."""


class Alert(NamedTuple):
    """One alert, as the file has it."""

    name: str
    text: str

    @property
    def runbook(self) -> tuple[str, str]:
        """The page below docs/, and the heading there."""
        found = re.search(r'runbook_url: "\{\{ \$externalLabels.docs \}\}/([\w/-]+)/#([\w-]+)"', self.text)
        assert found, f"{self.name} has no runbook"
        return f"{found[1]}.md", found[2]


def alerts() -> list[Alert]:
    """Return all of them."""
    return [
        Alert(part.partition("\n")[0].strip(), part)
        for file in RULES
        for part in file.read_text(encoding="utf-8").split("- alert:")[1:]
    ]


def write_cut(folder: Path) -> None:
    """Write the rules with no for-times, and what `CUTS` names cut down."""
    left = dict(CUTS)
    folder.mkdir()
    for file in RULES:
        head, *parts = file.read_text(encoding="utf-8").split("- alert:")
        made = [head]
        for part in parts:
            text, name = re.sub(r"\bfor: \w+", "for: 0s", part), part.partition("\n")[0].strip()
            if name in left:
                whole, cut = left.pop(name)
                assert whole in text, f"{name} has no {whole!r} to cut"
                text = text.replace(whole, cut)
            made.append(text)
        (folder / file.name).write_text("- alert:".join(made), encoding="utf-8")
    assert not left, f"no such alerts: {left}"
