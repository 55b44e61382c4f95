"""A report counts if an edge can have written it: about the proxy of its subject, in bytes that are one."""

from __future__ import annotations

import pytest

from shared.eventlog.protocol import Record
from shared.records.proxy_status import ProxyStatus, encode_status, status_in
from shared.records.subjects import Streams

STREAMS = Streams()
STATUS = ProxyStatus("c", "shop", "web-1", "uid", "web", "edge", True, 0)
SUBJECT = STREAMS.status_subject("c", "shop", "web-1")


def record(subject: str, payload: bytes) -> Record:
    return Record(subject=subject, sequence=1, payload=payload, time=0, headers={})


def test_what_an_edge_wrote_is_read() -> None:
    assert status_in(record(SUBJECT, encode_status(STATUS)), STREAMS) == STATUS


@pytest.mark.parametrize("subject", [STREAMS.status_subject("c", "shop", "web-2"), "mesh.status.c.other.web-1", "x"])
def test_a_report_about_another_proxy_than_its_subject_is_none(subject: str) -> None:
    assert status_in(record(subject, encode_status(STATUS)), STREAMS) is None


@pytest.mark.parametrize("payload", [b"", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"error": {"code": 404}}'])
def test_other_bytes_are_none(payload: bytes) -> None:
    assert status_in(record(SUBJECT, payload), STREAMS) is None
