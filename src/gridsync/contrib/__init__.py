"""Bridges to other packages, each behind an extra of its name; ``asgi`` and ``keys`` need none.

``asgi.py`` limits what comes in, for any ASGI application, and ``fastapi.py`` route by route; ``keys.py`` tells whom a
request counts for.  Below them, ``_policy.py`` is what one policy says, ``_gate.py`` what several say together,
``_fields.py`` how it is written in headers, and ``_answer.py`` how it is sent.  ``httpx.py`` waits before it sends, and
``_outgoing.py`` decides for how long.  ``prometheus.py`` shows `Grid.stats`; below it
``_stores.py`` asks event stores, and ``_metrics.py`` answers ``/metrics``.
"""
