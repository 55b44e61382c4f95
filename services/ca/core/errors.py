"""The refusal of a signing request. The requester receives the code only; the sentence is for the CA's log."""

from __future__ import annotations

from shared.errors import MeshlogError


class IssuanceRefusedError(MeshlogError):
    """The CA does not sign this request, or not now."""

    def __init__(self, code: str, sentence: str, *, about: str = "", retry_after: float = 0.0) -> None:
        """`retry_after` is the time in seconds after which the request may succeed; 0 if it cannot."""
        super().__init__(code, sentence, about=about)
        self.retry_after = retry_after
