"""The verdict on the edge's own server follows from what was measured, and from nothing else."""

from __future__ import annotations

import math

import msgspec
import pytest

from benchmarks.side_by_side import GRPCIO, OWN, ClientRow, Comparison, FloodRow, Served, Spec, markdown

AS_GOOD = Served(joins=30, p50=0.010, worst=0.050, usual_worst=0.050)


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({}, ""),
        ({"p50": 0.012, "usual_worst": 0.060}, ""),
        ({"worst": 0.900}, ""),  # of one round: a hiccup of the machine
        ({"p50": 0.014}, ""),  # within what two runs of one server differ by
        ({"p50": 0.020}, "p50 2.0 times as long"),
        ({"usual_worst": 0.200}, "the longest 4.0 times as long"),
        ({"worst": math.inf, "unserved": 1}, "1 joins were given up, 0 on grpc.aio"),
        ({"stuck": True}, "it does not recover"),
    ],
)
def test_a_flood_is_lost_by_the_server_under_which_members_wait_longer(own: dict[str, float], reason: str) -> None:
    assert FloodRow("ping", msgspec.structs.replace(AS_GOOD, **own), AS_GOOD).lost == reason


def test_everything_that_speaks_against_the_own_server_is_named() -> None:
    slow = msgspec.structs.replace(AS_GOOD, p50=1.0)
    found = Comparison(
        date="2026-01-01",
        floods=[FloodRow("ping", slow, AS_GOOD), FloodRow("names", AS_GOOD, slow)],
        clients=[ClientRow("grpc-go", "deadline", False, True, "hangs"), ClientRow("grpc-go", "1 call", True, False)],
        h2spec={OWN: Spec(144, 145, ("6.5: wrong",)), GRPCIO: Spec(58, 145)},
    )
    assert found.against() == ["ping: p50 100.0 times as long", "grpc-go, deadline: hangs", "h2spec: 144 of 145"]
    text = markdown(found)
    assert "| ping | 1000 / 50 | 10 / 50 |" in text
    assert "| grpc-go | 2 | 1 passed | 1 passed |" in text
    assert "| passed | 144 of 145 | 58 of 145 |" in text
