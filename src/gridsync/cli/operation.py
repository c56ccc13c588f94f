"""`gridsync setup` and `gridsync rotate`: what servers and their clients need to know, and how passwords change."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gridsync.cli._shared import DONE, NOTHING, asking, complain, open_grid, print_json, shown
from gridsync.errors import UsageError
from gridsync.ops import acl, rotate
from gridsync.ops.conf import PORT
from gridsync.ops.setup import Plan
from gridsync.ops.setup import setup as write

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gridsync.ops.files import Owner


def set_up(
    root: Path,
    server: str,
    like: str | None,
    said: Mapping[str, Any],
    *,
    hosts: tuple[str, ...],
    owner: str | None,
    as_json: bool,
) -> int:
    """Write everything, and tell what; returns 0 if it is there, 2 if something is in the way."""
    with asking() as outcome:
        without = acl.unknown(server)
        if like is not None:
            with open_grid(like, None) as grid:
                server, without = "like", acl.asked(grid.client)
        plan = Plan(server=server, without=tuple(sorted(without)), hosts=hosts, **said)
        done = write(root, plan, _owner(owner))
        if as_json:
            print_json(asdict(done))
        elif done.new:
            print(f"{done.root}: {len(done.files)} files written, for their owner's eyes only")
            there = shlex.quote(str(done.root))
            server = f"redis-server {there}/conf"
            elsewhere = "" if plan.port == PORT else f" --tls-port {plan.port}"
            print(f"  server     {server}/redis.conf{elsewhere}")
            print(f"  cache      {server}/cache.conf --tls-port {plan.port % 65_535 + 1}")
            print(f"  programs   set -a; . {there}/gridsync.env")
            print(f"  you        set -a; . {there}/admin.env; gridsync doctor")
        else:
            print(f"{done.root}: everything is there, nothing was changed")
        outcome.append(DONE)
    return outcome[0]


def rotate_passwords(
    root: Path,
    urls: tuple[str, ...],
    roles: tuple[str, ...],
    *,
    finish: bool,
    cut: bool,
    force: bool,
    timeout: float,
    as_json: bool,
) -> int:
    """Take the next step, and tell of it; returns 0 if it is done, 1 if old connections are in the way."""
    with asking() as outcome:
        if finish:
            done = rotate.finish(root, urls, cut=cut, force=force, timeout=timeout)
        else:
            done = rotate.begin(root, urls, roles, timeout=timeout)
        if as_json:
            print_json(asdict(done))
        else:
            _tell(root, done, finish=finish)
        outcome.append(NOTHING if finish and not done.done else DONE)
    return outcome[0]


def _tell(root: Path, done: rotate.Rotated, *, finish: bool) -> None:
    whose = ", ".join(done.roles)
    for each in done.unsaved:
        complain(f"{shown(each)}", "it did not save its users; let it find those of DIR/acl at its next start")
    if done.done:
        print(f"the old passwords of {whose} are forgotten by {', '.join(done.nodes)}")
    elif not finish:
        print(f"{whose}: new passwords are in {root}/secrets; the old ones are still good at {', '.join(done.nodes)}")
        print(f"  next   gridsync rotate {shlex.quote(str(root))} --finish")
    for held in done.held:
        print(f"  {held.node}: {held.user} {shown(held.name)} from {held.address} is connected since {held.age_s} s")
    if done.held and not done.done:
        complain(
            f"{len(done.held)} connections are from before; the old passwords of {whose} stay good",
            "wait until their clients connect anew, or end them with --cut, or leave them alone with --force",
        )


def _owner(said: str | None) -> Owner | None:
    if said is None:
        return None
    user, _, group = said.partition(":")
    if not (user.isdecimal() and group.isdecimal()):
        raise UsageError(f"--owner {said!r} is not UID:GID; write two numbers, such as 999:1000")
    return int(user), int(group)
