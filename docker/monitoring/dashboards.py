"""Writes Grafana's dashboards: `python docker/monitoring/dashboards.py`; a test says whether the files are its own.

Panels are tables of PromQL, here in `REDIS` and `GRIDSYNC`.  What Grafana wants around them comes from the builders of
grafana-foundation-sdk, which are made from Grafana's own schema.  Nothing is random and nothing has a time, so the same
tables make the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, GridPos, VariableRefresh

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(__file__).parent / "grafana" / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH, HEIGHT = 24, 8


class Panel(NamedTuple):
    """One picture: lines over time, or with `number` the latest values."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    """PromQL and legend.  ``@`` stands for the labels that the dashboard's variables choose, ``~`` for the interval."""
    text: str = ""
    number: bool = False


def rate(metric: str, *, by: str = "instance", labels: str = "@") -> str:
    """Return how much *metric* grows in a second, for each value of the labels *by*."""
    return f"sum by ({by}) (rate({metric}{{{labels}}}[~]))"


def ratio(above: str, below: str) -> str:
    """Return one query by another, and nothing where that is 0."""
    return f"{above} / ({below} > 0)"


def quantile(metric: str, of: float, by: str = "") -> str:
    """Return what a fraction *of* all observations of a histogram does not exceed."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({of}, sum by ({labels}) (rate({metric}_seconds_bucket{{@}}[~])))"


def spread(metric: str) -> list[tuple[str, str]]:
    """Return the median and the slow end of a histogram."""
    return [(quantile(metric, of), f"p{of * 100:.0f}") for of in (0.5, 0.95, 0.99)]


ONE = "{{instance}}"
HITS, MISSES = rate("redis_keyspace_hits_total"), rate("redis_keyspace_misses_total")
SPENT = rate("redis_commands_duration_seconds_total", by="cmd")
REDIS: dict[str, list[Panel]] = {
    "Now": [
        Panel("Servers up", "none", [("redis_up{@}", ONE)], number=True),
        Panel("Uptime", "s", [("redis_uptime_in_seconds{@}", ONE)], number=True),
        Panel("Clients", "none", [("redis_connected_clients{@}", ONE)], number=True),
        Panel(
            "Memory of maxmemory",
            "percentunit",
            [("redis_memory_used_bytes{@} / (redis_memory_max_bytes{@} > 0)", ONE)],
            "Empty where there is no limit.",
            number=True,
        ),
    ],
    "Memory": [
        Panel(
            "Memory",
            "bytes",
            [
                ("redis_memory_used_bytes{@}", "{{instance}} used"),
                ("redis_memory_used_rss_bytes{@}", "{{instance}} resident"),
                ("redis_memory_max_bytes{@} > 0", "{{instance}} maxmemory"),
            ],
        ),
        Panel(
            "Fragmentation",
            "none",
            [("redis_mem_fragmentation_ratio{@}", ONE)],
            "Resident by used; much above 1 is lost.",
        ),
        Panel(
            "Where it goes",
            "bytes",
            [
                ("redis_memory_used_dataset_bytes{@}", "{{instance}} data"),
                ("redis_mem_clients_normal{@}", "{{instance}} clients"),
                ("redis_replication_backlog_bytes{@}", "{{instance}} backlog"),
                ("redis_memory_used_lua_bytes{@}", "{{instance}} scripts"),
            ],
        ),
        Panel("Keys", "none", [("sum by (instance) (redis_db_keys{@})", ONE)]),
    ],
    "CPU": [
        Panel(
            "CPU",
            "percentunit",
            [
                (rate("redis_cpu_user_seconds_total"), "{{instance}} user"),
                (rate("redis_cpu_sys_seconds_total"), "{{instance}} system"),
            ],
            "Of one core: commands run on one.",
        ),
        Panel("Last fork", "s", [("redis_latest_fork_seconds{@}", ONE)], "The server stands still meanwhile."),
    ],
    "Clients": [
        Panel(
            "Clients",
            "none",
            [
                ("redis_connected_clients{@}", "{{instance}} connected"),
                ("redis_blocked_clients{@}", "{{instance}} blocked"),
                ("redis_config_maxclients{@}", "{{instance}} maxclients"),
            ],
        ),
        Panel(
            "Connections",
            "cps",
            [
                (rate("redis_connections_received_total"), "{{instance}} accepted"),
                (rate("redis_rejected_connections_total"), "{{instance}} refused"),
            ],
        ),
        Panel("Clients that listen", "none", [("redis_pubsub_channels{@}", "{{instance}} channels")]),
    ],
    "Cache": [
        Panel(
            "Hit rate",
            "percentunit",
            [
                (
                    ratio(HITS, f"({HITS} + {MISSES})"),
                    ONE,
                )
            ],
        ),
        Panel(
            "Look-ups",
            "ops",
            [
                (rate("redis_keyspace_hits_total"), "{{instance}} hits"),
                (rate("redis_keyspace_misses_total"), "{{instance}} misses"),
            ],
        ),
        Panel(
            "Keys that go",
            "ops",
            [
                (rate("redis_evicted_keys_total"), "{{instance}} evicted"),
                (rate("redis_expired_keys_total"), "{{instance}} expired"),
            ],
            "Evicted ones should be of a cache only.",
        ),
    ],
    "Network": [
        Panel(
            "Traffic",
            "binBps",
            [
                (rate("redis_net_input_bytes_total"), "{{instance}} in"),
                (rate("redis_net_output_bytes_total"), "{{instance}} out"),
            ],
        ),
    ],
    "Commands": [
        Panel("Commands", "ops", [(rate("redis_commands_processed_total"), ONE)]),
        Panel("By command", "ops", [(f"topk(10, {rate('redis_commands_total', by='cmd')})", "{{cmd}}")]),
        Panel(
            "Time by command",
            "percentunit",
            [(f"topk(10, {SPENT})", "{{cmd}}")],
            "Of the one core that runs commands.",
        ),
        Panel(
            "Mean time of a command",
            "s",
            [
                (
                    f"topk(10, {ratio(SPENT, rate('redis_commands_total', by='cmd'))})",
                    "{{cmd}}",
                )
            ],
        ),
        Panel("Errors", "ops", [(rate("redis_errors_total", by="instance, err"), "{{instance}} {{err}}")]),
    ],
    "Slow log": [
        Panel("Slow commands", "ops", [(rate("redis_slowlog_last_id"), ONE)], "Those beyond slowlog-log-slower-than."),
        Panel("Kept in the slow log", "none", [("redis_slowlog_length{@}", ONE)]),
        Panel("The last slow command took", "s", [("redis_last_slow_execution_duration_seconds{@}", ONE)]),
    ],
    "Persistence": [
        Panel(
            "Is it saved?",
            "bool_yes_no",
            [
                ("redis_aof_last_write_status{@}", "{{instance}} append log"),
                ("redis_aof_last_bgrewrite_status{@}", "{{instance}} rewrite"),
                ("redis_rdb_last_bgsave_status{@}", "{{instance}} snapshot"),
            ],
            number=True,
        ),
        Panel("Append log", "bytes", [("redis_aof_current_size_bytes{@}", ONE)]),
        Panel("Since the last snapshot", "s", [("time() - redis_rdb_last_save_timestamp_seconds{@}", ONE)]),
        Panel("Changes since the last snapshot", "none", [("redis_rdb_changes_since_last_save{@}", ONE)]),
    ],
    "Replication": [
        Panel("Replicas of a primary", "none", [("redis_connected_slaves{@}", ONE)]),
        Panel("Replicas that have a link", "none", [("redis_master_link_up{@}", ONE)]),
        Panel(
            "Heard of a replica", "s", [("redis_connected_slave_lag_seconds{@}", "{{slave_ip}}:{{slave_port}}")], "Ago."
        ),
        Panel(
            "Behind",
            "bytes",
            [
                (
                    "redis_master_repl_offset{@} - on (instance) group_right () redis_connected_slave_offset_bytes{@}",
                    "{{slave_ip}}:{{slave_port}}",
                )
            ],
        ),
    ],
}
NAMED = "{{name}}"
GROUP = "{{store}}/{{group}}"


def largest(metric: str, by: str = "store, group") -> str:
    """Return what is about a whole store or group, and so the same from whoever tells it."""
    return f"max by ({by}) ({metric}{{@}})"


GRIDSYNC: dict[str, list[Panel]] = {
    "Now": [
        Panel("Requests", "ops", [("sum(rate(gridsync_requests_total{@}[~]))", "all")], number=True),
        Panel("Servers away", "none", [("sum(gridsync_servers_away{@})", "all")], number=True),
        Panel("Leases kept", "none", [("sum(gridsync_leases_kept{@})", "all")], number=True),
        Panel(
            "Dead letters", "none", [("sum(max by (store, group) (gridsync_store_group_dead{@}))", "all")], number=True
        ),
    ],
    "Locks": [
        Panel("Waiting for a lock", "s", spread("gridsync_lock_wait")),
        Panel("Holding a lock", "s", spread("gridsync_lock_hold")),
        Panel(
            "Locks",
            "ops",
            [
                (rate("gridsync_locks_acquired_total"), "{{instance}} taken"),
                (rate("gridsync_lock_timeout_total"), "{{instance}} given up waiting"),
                (rate("gridsync_leases_lost_total"), "{{instance}} lost"),
            ],
        ),
        Panel(
            "Leases and waiters",
            "none",
            [
                ("sum by (instance) (gridsync_leases_kept{@})", "{{instance}} kept"),
                ("sum by (instance) (gridsync_ears{@})", "{{instance}} listening"),
            ],
        ),
    ],
    "Limits": [
        Panel(
            "Decisions",
            "ops",
            [(rate("gridsync_limit_decisions_total", by="limiter, outcome"), "{{limiter}} {{outcome}}")],
        ),
        Panel("Who decides", "ops", [(rate("gridsync_limit_decisions_total", by="source"), "{{source}}")]),
        Panel("Waiting for a turn", "s", [(quantile("gridsync_limit_wait", 0.95, "name"), "{{name}} p95")]),
        Panel("Without the server", "ops", [(rate("gridsync_decisions_degraded_total"), ONE)]),
    ],
    "Events": [
        Panel("Lag", "none", [(largest("gridsync_store_group_lag"), GROUP)], "Events that were not delivered yet."),
        Panel("Pending", "none", [(largest("gridsync_store_group_pending"), GROUP)], "Delivered, and not settled."),
        Panel("Age of the oldest event that is not settled", "s", [(largest("gridsync_store_group_oldest"), GROUP)]),
        Panel(
            "Failed events",
            "none",
            [
                (largest("gridsync_store_group_dead"), f"{GROUP} dead letters"),
                (largest("gridsync_store_group_parked"), f"{GROUP} parked"),
                (largest("gridsync_store_group_waiting"), f"{GROUP} waiting behind them"),
            ],
        ),
        Panel(
            "Handled",
            "ops",
            [
                (rate("gridsync_stream_consumed_total", by="name"), f"{NAMED} done"),
                (rate("gridsync_stream_failed_total", by="name"), f"{NAMED} failed"),
            ],
        ),
        Panel("From commit to handler", "s", [(quantile("gridsync_stream_lag", 0.95, "name"), f"{NAMED} p95")]),
        Panel("Consumers", "none", [(largest("gridsync_store_group_consumers"), GROUP)]),
    ],
    "Logs": [
        Panel(
            "Events in the log",
            "none",
            [
                (largest("gridsync_store_events", "store"), "{{store}}"),
                (largest("gridsync_store_free", "store"), "{{store}} not needed any more"),
                (largest("gridsync_store_cap", "store"), "{{store}} cap"),
            ],
        ),
        Panel("Refused at the cap", "ops", [(rate("gridsync_stream_full_total", by="name"), NAMED)]),
        Panel("Memory", "bytes", [(largest("gridsync_store_bytes", "store"), "{{store}}")]),
        Panel(
            "Outboxes",
            "none",
            [(largest("gridsync_store_outbox_events", "store, target"), "{{store}} to {{target}}")],
            "Events on their way to another store.",
        ),
        Panel(
            "Age of the oldest in an outbox",
            "s",
            [(largest("gridsync_store_outbox_oldest", "store, target"), "{{store}} to {{target}}")],
        ),
    ],
    "Second data centre": [
        Panel("Behind", "none", [(largest("gridsync_mirror_lag", "name"), NAMED)], "Events that have not crossed."),
        Panel("Behind, in time", "s", [(largest("gridsync_mirror_oldest", "name"), NAMED)]),
        Panel("From commit to the mirror", "s", [(quantile("gridsync_stream_mirrored", 0.95, "name"), f"{NAMED} p95")]),
    ],
    "Cache": [
        Panel(
            "Served",
            "ops",
            [
                (rate("gridsync_cache_hit_total", by="name"), f"{NAMED} fresh"),
                (rate("gridsync_cache_stale_total", by="name"), f"{NAMED} stale"),
                (rate("gridsync_cache_miss_total", by="name"), f"{NAMED} missed"),
            ],
        ),
        Panel("Loads", "ops", [(rate("gridsync_cache_load_seconds_count", by="name"), NAMED)]),
        Panel("A load takes", "s", [(quantile("gridsync_cache_load", 0.95, "name"), f"{NAMED} p95")]),
        Panel(
            "Copies in the process",
            "ops",
            [
                (rate("gridsync_cache_near_hits_total", by="name"), f"{NAMED} served"),
                (rate("gridsync_cache_near_misses_total", by="name"), f"{NAMED} asked for"),
                (rate("gridsync_cache_near_invalidations_total", by="name"), f"{NAMED} dropped by a change"),
                (rate("gridsync_cache_near_evictions_total", by="name"), f"{NAMED} dropped for room"),
            ],
        ),
        Panel("Without the server", "ops", [(rate("gridsync_cache_degraded_total", by="name"), NAMED)]),
    ],
    "Wire": [
        Panel("Requests", "ops", [(rate("gridsync_requests_total"), ONE)]),
        Panel(
            "Under way",
            "none",
            [
                ("sum by (instance) (gridsync_in_flight{@})", "{{instance}} in flight"),
                ("sum by (instance) (gridsync_line{@})", "{{instance}} in line"),
            ],
        ),
        Panel("Failed attempts", "ops", [(rate("gridsync_attempts_failed_total", by="reason"), "{{reason}}")]),
        Panel("Repeats refused", "ops", [(rate("gridsync_repeats_refused_total"), ONE)]),
        Panel(
            "Connections",
            "none",
            [
                ("sum by (instance) (gridsync_connections_open{@})", "{{instance}} open"),
                ("sum by (instance) (gridsync_connections_idle{@})", "{{instance}} idle"),
            ],
        ),
        Panel("Reconnections", "ops", [(rate("gridsync_connections_reopened_total"), ONE)]),
        Panel("Breakers", "none", [("sum by (server, state) (gridsync_breaker{@})", "{{server}} {{state}}")]),
    ],
    "Order book and fan-out": [
        Panel(
            "Written to a store",
            "ops",
            [
                (
                    "max by (store) (deriv(gridsync_store_events{@}[~]) + deriv(gridsync_store_removed{@}[~]))",
                    "{{store}}",
                )
            ],
            "An order book is its events: orders, trades and cancellations are appended to its store.",
        ),
        Panel("Gaps of subscribers", "ops", [(rate("gridsync_channel_gap_total"), ONE)]),
        Panel("Reads of replicas", "ops", [(rate("gridsync_replica_reads_total"), ONE)]),
    ],
}


def picture(panel: Panel, number: int, place: GridPos) -> timeseries.Panel | stat.Panel:
    """Return the builder of one panel."""
    made: timeseries.Panel | stat.Panel
    if panel.number:
        reduce = common.ReduceDataOptions().calcs(["lastNotNull"])
        made = stat.Panel().reduce_options(reduce).graph_mode(kinds.BigValueGraphMode.AREA)
    else:
        legend = common.VizLegendOptions().display_mode(kinds.LegendDisplayMode.LIST).show_legend(True)  # noqa: FBT003
        legend = legend.placement(kinds.LegendPlacement.BOTTOM)
        hover = common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING)
        made = timeseries.Panel().legend(legend).tooltip(hover).fill_opacity(10).min(0)
    made = made.id(number).title(panel.title).unit(panel.unit).datasource(SOURCE).grid_pos(place)
    if panel.text:
        made = made.description(panel.text)
    for letter, (query, legend_format) in zip("ABCDEFGH", panel.queries, strict=False):
        text = query.replace("@", 'instance=~"$instance"').replace("[~]", "[$__rate_interval]")
        target = prometheus.Dataquery().ref_id(letter).expr(text).legend_format(legend_format).datasource(SOURCE)
        made = made.with_target(target)
    return made


def board(uid: str, title: str, text: str, metric: str, rows: dict[str, list[Panel]]) -> str:
    """Return a dashboard as JSON; *metric* is one that all instances to choose from have."""
    instances = dashboard.QueryVariable("instance").label("Instance").query(f"label_values({metric}, instance)")
    instances = instances.datasource(SOURCE).refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(text)
        .tags(["gridsync"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(instances.multi(True).include_all(True).all_value(".*"))  # noqa: FBT003 - a builder's
    )
    number = y = 0
    for heading, panels in rows.items():
        number += 1
        made = made.with_row(dashboard.Row(heading).id(number).grid_pos(GridPos(h=1, w=WIDTH, x=0, y=y)))
        y += 1
        columns = min(len(panels), 4 if all(panel.number for panel in panels) else 3)
        width = WIDTH // columns
        for at, panel in enumerate(panels):
            number += 1
            across, down = at % columns, at // columns
            made = made.with_panel(
                picture(panel, number, GridPos(h=HEIGHT, w=width, x=across * width, y=y + down * HEIGHT))
            )
        y += -(-len(panels) // columns) * HEIGHT
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def boards() -> dict[str, str]:
    """Return the files to write, by name."""
    about = "See docs/monitoring.md.  Made by docker/monitoring/dashboards.py; change it there."
    return {
        "redis.json": board("gridsync-redis", "Redis", f"The servers. {about}", "redis_up", REDIS),
        "gridsync.json": board(
            "gridsync", "gridsync", f"What programs do through them. {about}", "gridsync_in_flight", GRIDSYNC
        ),
    }


if __name__ == "__main__":
    for name, text in boards().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
