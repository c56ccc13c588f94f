"""When each alert fires and when it does not: series as promtool reads them, a value every 15 seconds from 0 on.

Only of alerts that no test can make for real is there a reason beside: test_alerts.py makes the others.
"""

from __future__ import annotations

from typing import Final, NamedTuple

REDIS: Final = '{job="redis", instance="a", data="coordination"}'
CACHE: Final = '{job="redis", instance="a", data="cache"}'
GRID: Final = '{job="gridsync", instance="p", grid="g"}'
STORE: Final = '{job="gridsync", instance="p", store="orders"}'
GROUP: Final = '{job="gridsync", instance="p", store="orders", group="billing"}'


class Case(NamedTuple):
    """Series under which it fires, and others under which it does not, at the time *at*."""

    fires: dict[str, str]
    calm: dict[str, str]
    at: str = "15m"
    why_not_real: str = ""


def one(metric: str, labels: str, fires: str, calm: str, *, at: str = "15m", why_not_real: str = "") -> Case:
    """Return the case of an alert about one series."""
    return Case({metric + labels: fires}, {metric + labels: calm}, at, why_not_real)


def info(role: str = "master", policy: str = "noeviction", data: str = "coordination") -> str:
    """Return the name of the series that tells about a server."""
    labels = f'instance="a", data="{data}", role="{role}", maxmemory_policy="{policy}"'
    return f'redis_instance_info{{job="redis", {labels}}}'


CASES: Final = {
    "RedisExporterDown": one("up", '{job="redis", instance="a"}', "1 0x60", "1x60"),
    "RedisDown": one("redis_up", REDIS, "1 0x60", "1x50 0 0 1x10"),
    "RedisRestarted": one("redis_uptime_in_seconds", REDIS, "900+15x20 3+15x40", "900+15x60"),
    "RedisRefusesClients": one("redis_rejected_connections_total", REDIS, "5x50 6x10", "5x60"),
    "RedisClientsNearMax": Case(
        {f"redis_connected_clients{REDIS}": "81x60", f"redis_config_maxclients{REDIS}": "100x60"},
        {f"redis_connected_clients{REDIS}": "79x60", f"redis_config_maxclients{REDIS}": "100x60"},
    ),
    "RedisMemoryHigh": Case(
        {f"redis_memory_used_bytes{REDIS}": "86x60", f"redis_memory_max_bytes{REDIS}": "100x60"},
        {
            f"redis_memory_used_bytes{REDIS}": "99x60",  # of no limit
            f"redis_memory_max_bytes{REDIS}": "0x60",
            f"redis_memory_used_bytes{CACHE}": "99x60",  # a cache is full
            f"redis_memory_max_bytes{CACHE}": "100x60",
        },
    ),
    "RedisMemoryUnlimited": one("redis_memory_max_bytes", REDIS, "0x60", "100x60"),
    "RedisRefusesWrites": Case(
        {'redis_errors_total{job="redis", instance="a", err="OOM"}': "_x50 1x10", f"redis_up{REDIS}": "1x60"},
        # Nobody had looked before: it is an old error of a server that is watched from now on, or can be reached again.
        {
            'redis_errors_total{job="redis", instance="a", err="OOM"}': "_x50 7x10",
            f"redis_up{REDIS}": "_x20 0x30 1x10",
        },
    ),
    "RedisEvicts": Case(
        {f"redis_evicted_keys_total{REDIS}": "0x50 3x10"}, {f"redis_evicted_keys_total{CACHE}": "0+5x60"}
    ),
    "RedisMayEvict": Case(
        {info(policy="allkeys-lru"): "1x60"}, {info(): "1x60", info("master", "allkeys-lru", "cache"): "1x60"}
    ),
    "RedisFragmented": Case(
        {f"redis_mem_fragmentation_ratio{REDIS}": "1.6x200", f"redis_memory_used_bytes{REDIS}": "1e9x200"},
        {f"redis_mem_fragmentation_ratio{REDIS}": "9x200", f"redis_memory_used_bytes{REDIS}": "1e6x200"},
        at="45m",
        why_not_real="it takes a quarter of a gigabyte that is freed in the wrong order, and half an hour",
    ),
    "RedisSlowCommands": one("redis_slowlog_last_id", REDIS, "0x50 20x10", "0+0.1x60"),
    "RedisLongCommands": Case(
        {
            'redis_commands_duration_seconds_total{instance="a", cmd="keys"}': "0+3x60",
            'redis_commands_total{instance="a", cmd="keys"}': "0+100x60",
        },
        {
            'redis_commands_duration_seconds_total{instance="a", cmd="get"}': "0+0.01x60",
            'redis_commands_total{instance="a", cmd="get"}': "0+100x60",
        },
    ),
    "RedisBusy": Case(
        {f"redis_cpu_user_seconds_total{REDIS}": "0+9x60", f"redis_cpu_sys_seconds_total{REDIS}": "0+5.5x60"},
        {f"redis_cpu_user_seconds_total{REDIS}": "0+9x60", f"redis_cpu_sys_seconds_total{REDIS}": "0+1x60"},
        why_not_real="a machine on which other tests run does not give a server the whole of a core",
    ),
    "RedisForksSlowly": one(
        "redis_latest_fork_seconds", REDIS, "0.6x60", "0.4x60", why_not_real="it takes tens of gigabytes of data"
    ),
    "RedisAppendLogFails": one("redis_aof_last_write_status", REDIS, "1x50 0x10", "1x60"),
    "RedisRewriteFails": one("redis_aof_last_bgrewrite_status", REDIS, "1x50 0x10", "1x60"),
    "RedisSnapshotFails": one("redis_rdb_last_bgsave_status", REDIS, "1x50 0x10", "1x60"),
    "RedisForgets": Case({f"redis_aof_enabled{REDIS}": "0x60"}, {f"redis_aof_enabled{CACHE}": "0x60"}),
    "RedisReplicaLost": Case(
        {f"redis_connected_slaves{REDIS}": "2x40 1x20", info(): "1x60"},
        {
            f"redis_connected_slaves{REDIS}": "2x40 0x20",
            info(): "1x40 stale",
            info("slave"): "_x40 1x20",
        },  # after a failover
    ),
    "RedisReplicaCutOff": one("redis_master_link_up", REDIS, "1x40 0x20", "1x60"),
    "RedisReplicaLags": one(
        "redis_connected_slave_lag_seconds", '{instance="a", slave_ip="b", slave_port="1"}', "0x40 30x20", "1x60"
    ),
    "RedisPrimaryChanged": Case(
        {info("slave"): "1x70 stale", info(): "_x70 1x10"},
        {info(): "_x70 1x10"},  # a new server
        at="19m",
    ),
    "GridsyncProgramDown": one("up", '{job="gridsync", instance="p"}', "1 0x60", "1x60"),
    "GridsyncServerAway": one("gridsync_servers_away", GRID, "0x40 1x20", "0x60"),
    "GridsyncStoreUnreachable": one("gridsync_store_up", STORE, "1x40 0x20", "1x60"),
    "GridsyncAttemptsFail": Case(
        {
            'gridsync_attempts_failed_total{job="gridsync", instance="p", grid="g", reason="ambiguous"}': "0+2x60",
            f"gridsync_requests_total{GRID}": "0+100x60",
        },
        {
            'gridsync_attempts_failed_total{job="gridsync", instance="p", grid="g", reason="NOSCRIPT"}': "0+50x60",
            'gridsync_attempts_failed_total{job="gridsync", instance="p", grid="g", reason="LOADING"}': "0+0.5x60",
            f"gridsync_requests_total{GRID}": "0+100x60",
        },
    ),
    "GridsyncRepeatsRefused": one("gridsync_repeats_refused_total", GRID, "0x50 1x10", "4x60"),
    "GridsyncDegraded": Case(
        {
            'gridsync_cache_degraded_total{job="gridsync", instance="p", grid="g", name=""}': "0x60",
            'gridsync_cache_degraded_total{job="gridsync", instance="p", grid="g", name="prices"}': "_x50 1x10",
        },
        {
            f"gridsync_decisions_degraded_total{GRID}": "8x60",
            'gridsync_cache_degraded_total{job="gridsync", instance="p", grid="g", name="prices"}': "2x60",
        },
    ),
    "GridsyncCallersInLine": one("gridsync_line", GRID, "11x60", "9x60"),
    "GridsyncLeasesLost": one("gridsync_leases_lost_total", GRID, "0x50 1x10", "3x60"),
    "GridsyncLockWaitsLong": Case(
        {
            'gridsync_lock_wait_seconds_bucket{instance="p", grid="g", le="10.0"}': "0x60",
            'gridsync_lock_wait_seconds_bucket{instance="p", grid="g", le="60.0"}': "0+1x60",
            'gridsync_lock_wait_seconds_bucket{instance="p", grid="g", le="+Inf"}': "0+1x60",
        },
        {
            'gridsync_lock_wait_seconds_bucket{instance="p", grid="g", le="10.0"}': "0+1x60",
            'gridsync_lock_wait_seconds_bucket{instance="p", grid="g", le="60.0"}': "0+1x60",
            'gridsync_lock_wait_seconds_bucket{instance="p", grid="g", le="+Inf"}': "0+1x60",
        },
    ),
    "GridsyncGroupStuck": one("gridsync_store_group_oldest", GROUP, "0+15x60", "299x60"),
    "GridsyncGroupFallsBehind": one("gridsync_store_group_lag", GROUP, "2000+10x100", "9000-10x100", at="25m"),
    "GridsyncDeadLetters": one("gridsync_store_group_dead", GROUP, "2x50 3x10", "5x60"),
    "GridsyncGroupExpired": Case(
        {
            'gridsync_stream_expired_total{job="gridsync", instance="p", grid="g", name=""}': "0x60",
            'gridsync_stream_expired_total{job="gridsync", instance="p", grid="g", name="orders/old"}': "_x50 1x10",
        },
        {'gridsync_stream_expired_total{job="gridsync", instance="p", grid="g", name="orders/old"}': "1x60"},
    ),
    "GridsyncOutboxStuck": one(
        "gridsync_store_outbox_oldest",
        '{job="gridsync", instance="p", store="orders", target="bills"}',
        "0+15x60",
        "9x60",
    ),
    "GridsyncMirrorBehind": one(
        "gridsync_mirror_oldest", '{job="gridsync", instance="p", grid="g", name="orders"}', "0+15x60", "5x60"
    ),
    "GridsyncLogNearCap": Case(
        {f"gridsync_store_events{STORE}": "95x60", f"gridsync_store_cap{STORE}": "100x60"},
        {f"gridsync_store_events{STORE}": "95x60"},  # no cap
    ),
    "GridsyncLogFull": Case(
        {
            'gridsync_stream_full_total{job="gridsync", instance="p", grid="g", name=""}': "0x60",
            'gridsync_stream_full_total{job="gridsync", instance="p", grid="g", name="orders"}': "_x50 1x10",
        },
        {'gridsync_stream_full_total{job="gridsync", instance="p", grid="g", name="orders"}': "6x60"},
    ),
    "GridsyncLogHeld": Case(
        {f"gridsync_store_events{STORE}": "3e6x60", f"gridsync_store_free{STORE}": "1e6x60"},
        {f"gridsync_store_events{STORE}": "3e6x60", f"gridsync_store_free{STORE}": "25e5x60"},
    ),
    "GridsyncSubscribersMiss": one("gridsync_channel_gap_total", GRID, "0x50 40x10", "0+0.1x60"),
}
