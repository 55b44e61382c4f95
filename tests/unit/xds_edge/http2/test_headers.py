"""Request headers that RFC 9113 calls malformed, and the timeout of a call."""

from __future__ import annotations

import pytest

from services.xds_edge.http2.headers import TimeoutFormatError, malformed, malformed_trailers, timeout

GOOD = [
    (":method", "POST"),
    (":scheme", "https"),
    (":path", "/a/b"),
    (":authority", "edge"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


def test_what_grpc_sends_is_well_formed() -> None:
    assert not malformed(GOOD)
    assert not malformed(GOOD[:3])
    assert not malformed([*GOOD, ("host", "edge"), ("x-bin", "AA=="), ("empty", "")])
    assert not malformed([(":method", "CONNECT"), (":authority", "edge")])
    assert not malformed_trailers([("grpc-status", "0")])


@pytest.mark.parametrize(
    "extra",
    [
        ("X-Upper", "1"),
        ("connection", "close"),
        ("proxy-connection", "close"),
        ("keep-alive", "1"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
        (":path", "/late"),
        (":status", "200"),
        (":protocol", "websocket"),
        ("", "1"),
        ("a b", "1"),
        ("a\0", "1"),
        ("a:b", "1"),
        ("h\xe9", "1"),
        ("x", "a\r\nb: c"),
        ("x", "a\0"),
        ("x", " a"),
        ("x", "a\t"),
        ("host", "another"),
    ],
)
def test_what_no_client_may_send_is_malformed(extra: tuple[str, str]) -> None:
    assert malformed([*GOOD, extra])


@pytest.mark.parametrize("missing", [":method", ":scheme", ":path"])
def test_a_request_without_its_pseudo_headers_is_malformed(missing: str) -> None:
    assert malformed([pair for pair in GOOD if pair[0] != missing])


@pytest.mark.parametrize("twice", [":method", ":scheme", ":path", ":authority"])
def test_a_pseudo_header_that_comes_twice_is_malformed(twice: str) -> None:
    assert malformed([(twice, "x"), *GOOD])


def test_more_of_what_is_malformed() -> None:
    assert malformed([*GOOD[:2], (":path", ""), *GOOD[3:]])
    assert malformed([GOOD[4], *GOOD[:4]])
    assert malformed([])
    assert malformed([(":method", "CONNECT"), (":authority", "edge"), (":path", "/")])
    assert malformed_trailers([(":path", "/")])
    assert malformed_trailers([("X", "1")])


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("1H", 3600), ("2M", 120), ("3S", 3), ("500m", 0.5), ("7u", 7e-6), ("99999999n", 0.099999999), ("0S", 0)],
)
def test_a_timeout_is_read_in_its_unit(value: str, seconds: float) -> None:
    assert timeout([("grpc-timeout", value)]) == pytest.approx(seconds)


def test_no_timeout_is_none_and_one_of_years_is_too() -> None:
    assert timeout([]) is None
    assert timeout([("grpc-timeout", "99999999H")]) is None


@pytest.mark.parametrize("value", ["", "1", "S", "1s", "1.5S", "-1S", "123456789S", "1 S", "1S "])
def test_a_timeout_that_is_none_is_told_apart(value: str) -> None:
    with pytest.raises(TimeoutFormatError):
        timeout([("grpc-timeout", value)])
