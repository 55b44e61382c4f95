"""The rules for the headers of a call (RFC 9113, section 8; gRPC's "PROTOCOL-HTTP2").

`h2` would end the whole connection for one malformed header. The standard demands the end of that stream alone (section
8.1.1), so the check of `h2` is off and this module replaces it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Headers = Sequence[tuple[str, str]]

LONGEST_TIMEOUT = 30 * 86_400.0
"""Seconds; a longer `grpc-timeout` counts as none."""

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(r"[\0\r\n]|^[ \t]|[ \t]\Z")
_PSEUDO = frozenset((":method", ":scheme", ":path", ":authority"))
_NEEDED = _PSEUDO - {":authority"}
_OF_THE_CONNECTION = frozenset(("connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"))
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class TimeoutFormatError(Exception):
    """The `grpc-timeout` is malformed."""


def weight(headers: Headers) -> int:
    """Bytes of headers as the standard counts them (section 10.5.1)."""
    return sum(len(name) + len(value) + 32 for name, value in headers)


def malformed(headers: Headers) -> bool:
    """Whether the stream of these request headers must be reset with PROTOCOL_ERROR."""
    pseudo: dict[str, str] = {}
    regular = False
    for name, value in headers:
        if name.startswith(":"):
            if regular or name in pseudo or name not in _PSEUDO or _BAD_VALUE.search(value):
                return True
            pseudo[name] = value
        else:
            regular = True
            if not _may_stand(name, value) or (name == "host" and value != pseudo.get(":authority", value)):
                return True
    if pseudo.get(":method") == "CONNECT":
        return pseudo.keys() != {":method", ":authority"}
    return not pseudo.keys() >= _NEEDED or not pseudo[":path"]


def malformed_trailers(headers: Headers) -> bool:
    """Whether the stream of these trailers must be reset; they have no pseudo-headers (section 8.1)."""
    return not all(_may_stand(name, value) for name, value in headers)


def _may_stand(name: str, value: str) -> bool:
    """Whether a client may send this header (sections 8.2.1 and 8.2.2)."""
    if _NAME.fullmatch(name) is None or _BAD_VALUE.search(value) is not None or name in _OF_THE_CONNECTION:
        return False
    return name != "te" or value == "trailers"


def timeout(metadata: Iterable[tuple[str, str]]) -> float | None:
    """The `grpc-timeout` in seconds, or None if the call has no deadline. Raises `TimeoutFormatError`."""
    for name, value in metadata:
        if name == "grpc-timeout":
            match = _TIMEOUT.fullmatch(value)
            if match is None:
                raise TimeoutFormatError
            seconds = int(match[1]) * _SECONDS[match[2]]
            return seconds if seconds < LONGEST_TIMEOUT else None
    return None
