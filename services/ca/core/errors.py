"""Why a request is refused. The caller learns the code only; the sentence is for the CA's log."""

from __future__ import annotations

from shared.errors import MeshlogError


class IssuanceRefusedError(MeshlogError):
    """The CA does not sign, or not now."""

    def __init__(self, code: str, sentence: str, *, about: str = "", retry_after: float = 0.0) -> None:
        """`retry_after`: seconds after which the same request may succeed; 0: it will not."""
        super().__init__(code, sentence, about=about)
        self.retry_after = retry_after
