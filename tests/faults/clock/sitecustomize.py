"""A clock that is wrong: the wall clock of a Python program, moved by `$FAULTS_CLOCK` seconds.

On its PYTHONPATH the fault suite starts services so. What measures durations (the steady clock) stays right, as on a
machine whose clock is wrong; what the C library does by itself (TLS handshakes) keeps the machine's time.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from typing import Any

_OFF = float(os.environ.get("FAULTS_CLOCK") or 0)

if _OFF:
    _time, _time_ns, _datetime = time.time, time.time_ns, dt.datetime

    class _Wrong(_datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return cls.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.fromtimestamp(time.time(), dt.UTC).replace(tzinfo=None)

    time.time = lambda: _time() + _OFF
    time.time_ns = lambda: _time_ns() + int(_OFF * 1e9)
    dt.datetime = _Wrong  # type: ignore[misc]
