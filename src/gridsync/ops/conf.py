"""Configurations of servers for coordination, for a cache, for a cluster, and of sentinels: hardened, without a secret.

What is peculiar to one machine (its primary, its announced address) is given on the command line, which wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from gridsync.ops.layout import Layout

__all__ = ["PORT", "Sizes", "texts"]

PORT: Final = 6379
"""Where every server listens unless its command line says otherwise; sentinels have their own."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much memory a server may use, as its configuration says it: ``512mb``, ``2gb``."""

    maxmemory: str = "1gb"
    """For locks, limits and events."""
    cache: str = "2gb"
    """For the cache."""


def quoted(path: Path | str) -> str:
    """Return a word of a configuration that may have spaces."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


_HEAD = """\
# Written by `gridsync setup`.  What differs from it is not overwritten: put changes into a file of your own that
# includes this one, or on the command line.

"""

_LISTENING = """\
# --- Network: TLS only.  A client presents a certificate of this authority, and a password besides. ---
port 0
tls-port {port}
tls-cert-file {cert}
tls-key-file {key}
tls-ca-cert-file {ca}
tls-auth-clients yes
tls-protocols "TLSv1.2 TLSv1.3"
tls-replication yes
# Not only on the loopback address, as the ACL has a password for everybody and TLS asks for certificates.
bind * -::*
protected-mode yes
# Half-open connections end after about a minute; idle ones stay, for a lease may be renewed on them.
tcp-keepalive 60
timeout 0
tcp-backlog 511

# --- Users: the default user is off, and each role may do what it needs (ACL), so that nothing is renamed. ---
aclfile {acl}
acl-pubsub-default resetchannels
acllog-max-len 1024
"""

_SERVER = """\
# Files and addresses of the server cannot be changed from a connection, nor can code be loaded from one.
enable-protected-configs no
enable-debug-command no
enable-module-command no

# --- Clients: one that does not read, or sends without end, is cut off before it costs the others their memory. ---
maxclients 10000
maxmemory-clients 10%
client-output-buffer-limit normal 64mb 32mb 30
client-output-buffer-limit replica 256mb 64mb 60
client-output-buffer-limit pubsub 32mb 8mb 60
client-query-buffer-limit 64mb
proto-max-bulk-len 64mb

# --- Slow things: other clients get BUSY while a script runs for longer than this, and it can be killed. ---
busy-reply-threshold 5000
slowlog-log-slower-than 10000
slowlog-max-len 1024
latency-monitor-threshold 100
latency-tracking yes

# --- Freeing memory in the background. ---
lazyfree-lazy-eviction yes
lazyfree-lazy-expire yes
lazyfree-lazy-server-del yes
lazyfree-lazy-user-del yes
replica-lazy-flush yes

daemonize no
shutdown-timeout 10
databases {databases}
dir {data}
"""

_KEPT = """\

# --- Memory: coordination data is never dropped.  An evicted lock is a lock that two hold, an evicted window admits
# --- twice, an evicted stream has lost events.  A full server refuses writes, which callers see.
maxmemory {maxmemory}
maxmemory-policy noeviction

# --- Disk: every second's changes, and snapshots to start from.  `appendfsync always` loses nothing, and is slower. ---
appendonly yes
appendfsync everysec
aof-use-rdb-preamble yes
aof-load-truncated yes
# A rewrite does not stop fsync: a machine that crashes during one would forget what it granted meanwhile.
no-appendfsync-on-rewrite no
auto-aof-rewrite-percentage 100
auto-aof-rewrite-min-size 64mb
save 3600 1 300 100 60 10000
stop-writes-on-bgsave-error yes
rdbchecksum yes

# --- Replication.  With replicas, say `min-replicas-to-write 1` on the command line: a primary that is cut off then
# --- stops granting after min-replicas-max-lag seconds, instead of granting what a failover will not know of.
repl-diskless-sync yes
repl-backlog-size 64mb
min-replicas-max-lag 10
replica-read-only yes
replica-serve-stale-data yes
# User and password of replication; as a pattern, so that it may be missing where nothing is copied.
include {replication}
"""

_CACHE = """\

# --- Memory: a cache may forget, so it is full most of the time and drops what was not used for longest.  That is why
# --- it is a server of its own: in one that drops keys, locks, limits and events would not be safe; in one that does
# --- not, a full cache would stop them.
maxmemory {cache}
maxmemory-policy allkeys-lru
maxmemory-samples 10

# --- Disk: none.  What a restart forgets is loaded again, and no fork doubles the memory.
appendonly no
save ""
"""

_CLUSTER = """\

# --- Cluster: the nodes speak TLS to each other, too.  A part without an owner refuses its own keys only.
cluster-enabled yes
tls-cluster yes
cluster-config-file nodes.conf
cluster-node-timeout 5000
cluster-require-full-coverage no
cluster-allow-reads-when-down no
cluster-migration-barrier 1
"""

_SENTINEL = """\

# --- Sentinel: whom it watches is said where it is started; it rewrites this file, so give it a copy of its own:
# ---   sentinel monitor gridsync redis-1 6379 2
# ---   sentinel auth-user gridsync sentinel
# ---   sentinel auth-pass gridsync <secrets/sentinel.password>
# ---   sentinel sentinel-user sentinel
# ---   sentinel sentinel-pass <secrets/sentinel.password>
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
# Nobody can make it run a program.
sentinel deny-scripts-reconfig yes
daemonize no
dir {data}
"""


def texts(layout: Layout, sizes: Sizes) -> dict[str, str]:
    """Return the text of each configuration, by the name of its file."""

    def written(*parts: str, users: Path, data: str, port: int = PORT, databases: int = 16) -> str:
        return "".join((_HEAD, _LISTENING, *parts)).format(
            acl=quoted(users),
            ca=quoted(layout.tls("ca.crt")),
            cert=quoted(layout.tls("server.crt")),
            key=quoted(layout.tls("server.key")),
            data=quoted(layout.data(data)),
            replication=quoted(layout.replication.with_name("replication.con[f]")),
            maxmemory=sizes.maxmemory,
            cache=sizes.cache,
            port=port,
            databases=databases,
        )

    users, sentinels = layout.users, layout.sentinel_users
    return {
        "redis.conf": written(_SERVER, _KEPT, users=users, data="redis"),
        "cache.conf": written(_SERVER, _CACHE, users=users, data="cache"),
        "cluster.conf": written(_SERVER, _KEPT, _CLUSTER, users=users, data="cluster-1", databases=1),
        "sentinel.conf": written(_SENTINEL, users=sentinels, data="sentinel-1", port=26379),
    }
