"""Limits: how much is admitted, shared by all processes, and in no window of time more, unless asked for otherwise.

::

    limiter = grid.limiter("orders", "100/second", "5000/minute")
    if not limiter.hit("member-7"):
        ...

``_rules.py`` and ``_rate.py`` read rules, ``_api.py`` says what a limiter does and ``_decision.py`` what it answers,
``_core.py`` how a subject's windows are stored and ``_algorithms.py`` how its bucket, counters or slots are,
``_waiting.py`` how a caller waits, ``_together.py`` and ``_check.py`` how several limiters are asked at once,
``_fallback.py`` what is answered while the server is away, and ``lua/`` what is atomic.  Windows: ``hit_one`` for one
rule, ``hit`` for several or with a wait, ``peek`` to look, ``refund`` to give back.  The others: ``gcra_hit``,
``counter_hit``, ``slot_hit``, and so on.
``_leased.py`` and ``_leasing.py`` decide in this process, with permits that ``lease`` took and ``give_back`` returns.
"""

from gridsync.limits._api import AsyncLimiter, Limiter
from gridsync.limits._check import Checked
from gridsync.limits._decision import Decision, Ticket
from gridsync.limits._fallback import OnError, Share
from gridsync.limits._leased import AsyncLeased, Leased
from gridsync.limits._rate import Rate
from gridsync.limits._rules import GCRA, ApproxWindow, Concurrency, FixedWindow, Rule, SlidingWindow
from gridsync.limits._together import AsyncLimits, Limits

__all__ = [
    "GCRA",
    "ApproxWindow",
    "AsyncLeased",
    "AsyncLimiter",
    "AsyncLimits",
    "Checked",
    "Concurrency",
    "Decision",
    "FixedWindow",
    "Leased",
    "Limiter",
    "Limits",
    "OnError",
    "Rate",
    "Rule",
    "Share",
    "SlidingWindow",
    "Ticket",
]
