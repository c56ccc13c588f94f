"""What the doctor sees without asking a server: this program, its settings, and the kernel if the server shares it."""

from __future__ import annotations

import difflib
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gridsync._checkup import CERTIFICATE_DAYS
from gridsync.health import Item

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gridsync.cli.doctor.server import Seen
    from gridsync.settings import Settings

SPARE: Final = 100
"""Descriptors that a program needs for anything else."""
DESCRIPTORS_MIN: Final = 1024
KERNEL: Final = Path("/")
"""Where the kernel's own files are found."""
_OURS: Final = frozenset(
    {
        "GRIDSYNC_REDIS_SERVER",
        *("GRIDSYNC_DIR", "GRIDSYNC_UID", "GRIDSYNC_GID"),  # gridsync.env
        *("GRIDSYNC_NET", "GRIDSYNC_TARGETS"),  # docker/compose.yaml
    }
)
"""Variables with our prefix that are no settings."""
_LIKE: Final = 0.85


def program(settings: Settings, seen: Seen | None, environment: Mapping[str, str]) -> list[Item]:
    """Return what this very interpreter and its settings are like."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("redis", "hiredis", "pydantic"))
    return [
        Item("python", "ok", f"{platform.python_implementation()} {platform.python_version()}, {sys.platform}"),
        Item("libraries", "ok", f"{libraries}, RESP3"),
        *_descriptors(settings),
        _settings(settings, seen),
        _environment(settings, environment),
    ]


def kernel(seen: Seen, root: Path = KERNEL) -> list[Item]:
    """Return what the kernel under a server of this very machine is set to; nothing where it has no such files."""
    found = []
    overcommit = _read(root / "proc/sys/vm/overcommit_memory")
    if overcommit == "0":
        advice = "a fork for a snapshot may be refused though there is memory: sysctl vm.overcommit_memory=1"
        found.append(Item("overcommit", "degraded", overcommit, "", advice))
    elif overcommit:
        found.append(Item("overcommit", "ok", overcommit))
    pages = _read(root / "sys/kernel/mm/transparent_hugepage/enabled")
    if "[always]" in pages and seen.settings.get("disable-thp") == "no":
        advice = "each write after a fork copies 2 MB: CONFIG SET disable-thp yes and restart, or write madvise there"
        found.append(Item("huge pages", "degraded", pages, "", advice))
    elif pages:
        found.append(Item("huge pages", "ok", pages))
    return found


def certificate(file: Path, now: float) -> Item:
    """Return how long the certificate that this program shows to servers holds; *now* is in seconds since 1970."""
    try:
        from cryptography import x509  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError:
        advice = "pip install 'gridsync-redis[cli,ops]' to have it looked at"
        return Item("client certificate", "unknown", "cannot be read without the package cryptography", "", advice)
    try:
        ends = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError) as error:
        advice = f"servers that ask for one refuse the next connection: see what is in {file}"
        return Item("client certificate", "degraded", f"cannot be read: {error}", "", advice)
    days = round((ends - now) / 86_400, 1)
    if days >= CERTIFICATE_DAYS:
        return Item("client certificate", "ok", days, "d")
    when = "has ended" if ends <= now else "ends soon"
    advice = f"{file} {when}: servers that ask for one refuse every new connection then; put a new one in its place"
    return Item("client certificate", "degraded", days, "d", advice)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _descriptors(settings: Settings) -> list[Item]:
    try:
        import resource  # noqa: PLC0415 - there is none on Windows
    except ImportError:
        return []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max(settings.redis_pool_size + SPARE, DESCRIPTORS_MIN)
    if soft in (-1, resource.RLIM_INFINITY) or soft >= needed:
        return [Item("descriptors", "ok", f"{soft} of at most {hard}")]
    advice = f"a pool of {settings.redis_pool_size} connections and what else is open may not fit: ulimit -n {needed}"
    return [Item("descriptors", "degraded", f"{soft} of at most {hard}", "", advice)]


def _settings(settings: Settings, seen: Seen | None) -> Item:
    """Return the settings that contradict each other, or what the server says."""
    said = settings.model_fields_set
    wrong = []
    tuned = sorted(name.upper() for name in said if name.startswith("gridsync_breaker_"))
    if not settings.gridsync_breaker and tuned:
        wrong.append(f"GRIDSYNC_BREAKER is off, so {', '.join(tuned)} change nothing")
    if settings.gridsync_retry_ratio == 0 and settings.gridsync_retry_burst == 0:
        wrong.append("GRIDSYNC_RETRY_RATIO and GRIDSYNC_RETRY_BURST are both 0, so no failed attempt is ever repeated")
    if settings.gridsync_breaker and settings.gridsync_breaker_pause >= 10 * settings.redis_command_timeout:
        wrong.append(
            f"GRIDSYNC_BREAKER_PAUSE is {settings.gridsync_breaker_pause:g} s and REDIS_COMMAND_TIMEOUT "
            f"{settings.redis_command_timeout:g} s: after a blip every call fails for ten times as long as one may take"
        )
    most = int(seen.settings.get("maxclients", 0)) if seen is not None else 0
    if most and settings.redis_pool_size >= most:
        wrong.append(
            f"REDIS_POOL_SIZE is {settings.redis_pool_size}, and the server takes {most} clients of all programs"
        )
    if wrong:
        return Item("settings", "degraded", f"{len(wrong)} contradict each other", "", "; ".join(wrong))
    return Item("settings", "ok", f"{len(said)} given, the others by default")


def _environment(settings: Settings, environment: Mapping[str, str]) -> Item:
    """Return the variables that look like settings and are none."""
    known = {name.upper() for name in type(settings).model_fields}
    odd = []
    for name in sorted(set(environment) - known - _OURS):
        near = difflib.get_close_matches(name, known, n=1, cutoff=_LIKE)
        if near:
            odd.append(f"{name} is no setting (is {near[0]} meant?)")
        elif name.startswith("GRIDSYNC_"):
            odd.append(f"{name} is no setting")
    if not odd:
        return Item("environment", "ok", "every variable of ours is known")
    return Item("environment", "degraded", f"{len(odd)} unknown", "", "; ".join(odd))
