"""Answers of the Kubernetes API, and the errors without one. Apart from the client, which is slow to import."""

from __future__ import annotations

import msgspec

from shared.errors import MeshlogError

JSON = "application/json"
MOST_ANSWER = 16 * 1024 * 1024
"""Bytes of an answer that are read unless a caller allows more; etcd refuses objects above 1.5 MiB."""


class ApiAnswer(msgspec.Struct, frozen=True):
    """The answer to a request, whatever its status."""

    status: int
    body: bytes
    retry_after: float = 0.0
    """Seconds after which the request may be repeated (`Retry-After`); 0 without that header."""


class RequestError(MeshlogError):
    """There is no answer: the server cannot be reached, is too slow, or its answer is too large. Retry later."""

    def __init__(self, why: str, *, about: str, details: str = "") -> None:
        """`why` is short, for logs and metrics; `about` is method and path."""
        super().__init__("kubernetes/no-answer", f"no answer ({details or why})", about=about)
        self.why = why
        self.details = details or why


class WatchRefusedError(MeshlogError):
    """The server answers, and does not begin the watch."""

    def __init__(self, answer: ApiAnswer, *, about: str) -> None:
        super().__init__("kubernetes/watch", f"the watch was refused ({answer.status})", about=about)
        self.answer = answer
