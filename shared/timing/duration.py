"""Durations as Kubernetes objects write them: Go's `24h`, `1h30m`, `500ms`."""

from __future__ import annotations

import re

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
"""Go takes both micro signs."""
_PART = re.compile(rf"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)({'|'.join(sorted(_SECONDS, key=len, reverse=True))})")
_LONGEST = 1e9
"""Seconds; Go's own limit is about 292 years."""


def parse_duration(text: str) -> float:
    """Seconds of a duration, as Go's `time.ParseDuration` reads it but never negative; raises `ValueError`."""
    text = text.removeprefix("+")
    if text == "0":
        return 0.0
    parts = list(_PART.finditer(text))
    total = sum(float(part[1]) * _SECONDS[part[2]] for part in parts)
    if not parts or "".join(part[0] for part in parts) != text or total > _LONGEST:
        raise ValueError(f"{text[:40]!r} is not a duration such as 24h or 1h30m")
    return total
