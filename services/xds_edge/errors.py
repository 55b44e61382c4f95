"""Why a stream is refused or ended: the gRPC status, and a code of the edge. Used by transport and policy alike."""

from __future__ import annotations

from enum import IntEnum

from shared.errors import MeshlogError


class Code(IntEnum):
    """gRPC status codes that the edge returns (gRPC, "Status codes and their use")."""

    OK = 0
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class StreamRefusedError(MeshlogError):
    """A stream is refused, or ended, with this gRPC status."""

    def __init__(self, status: Code, code: str, sentence: str) -> None:
        super().__init__(code, sentence)
        self.status = status
