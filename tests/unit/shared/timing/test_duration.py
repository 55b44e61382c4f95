from __future__ import annotations

import pytest

from shared.timing.duration import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("24h", 86400), ("1h30m", 5400), ("90s", 90), ("500ms", 0.5), ("1.5h", 5400), ("0", 0), ("+2m", 120), (".5m", 30)],
)
def test_durations_read_as_go_reads_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "1d", "h", "-1h", "1h ", "1h-2m", "1e3s", "9" * 400 + "h", "+", "1hh", "٣h"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)
