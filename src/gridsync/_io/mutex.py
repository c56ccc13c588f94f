"""A lock for what several threads do to one thing in a few steps, for cores: nothing is awaited while it is held.

Under asyncio there is nobody to wait for, and it costs as much as an attribute.
"""

from __future__ import annotations

import threading

Mutex = threading.Lock
