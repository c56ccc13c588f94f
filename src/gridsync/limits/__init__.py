"""Limits: how much is admitted in any window of time, shared by all processes and exact.

::

    limiter = grid.limiter("orders", "100/second", "5000/minute")
    if not limiter.hit("member-7"):
        ...

``_rate.py`` reads rules, ``_api.py`` says what a limiter does and ``_decision.py`` what it answers, ``_core.py`` how a
subject is stored, ``_fallback.py`` what is answered while the server is away, and ``lua/`` what is atomic: ``hit_one``
for one rule, ``hit`` for several or with a wait, ``peek`` to look, ``refund`` to give back.
"""

from gridsync.limits._api import AsyncLimiter, Limiter
from gridsync.limits._decision import Decision, Ticket
from gridsync.limits._fallback import OnError
from gridsync.limits._rate import Rate

__all__ = ["AsyncLimiter", "Decision", "Limiter", "OnError", "Rate", "Ticket"]
