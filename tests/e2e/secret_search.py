"""Looks for private keys and usable tokens in whatever a mesh leaves behind: known ones, and any by its shape.

A secret that is written down is seldom written plainly: it is looked for raw, in base64 at any place of a longer text
(each secret has three spellings there), in base64url, and in hexadecimal.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable

_JWT = re.compile(rb"eyJ[A-Za-z0-9_-]{16,}\.eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{40,}")
_SHAPES = {
    "a private key in PEM": b"PRIVATE KEY-----",
    # PrivateKeyInfo (RFC 5208) around an ECPrivateKey (RFC 5915) on P-256, from the version to the key's length.
    "a P-256 key": bytes.fromhex("020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420"),
    # The same around an RSAPrivateKey (RFC 8017): algorithm and the tag of the octet string.
    "an RSA key": bytes.fromhex("020100300d06092a864886f70d01010105000482"),
}
SHORTEST = 16
"""Bytes; less could be found by chance."""


def spellings(secret: bytes) -> set[bytes]:
    """How these bytes look in a text or a file."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for shift in range(3):
        # What surrounds it changes the first and the last characters; those between are the secret's alone.
        whole = base64.b64encode(bytes(shift) + secret)
        core = whole[-(-shift * 8 // 6) : len(whole) - 4]
        if shift:
            core = core[1:] if shift * 8 % 6 else core
        found |= {core, core.replace(b"+", b"-").replace(b"/", b"_")}
    return {one for one in found if len(one) >= SHORTEST}


class SecretSearch:
    """Remembers secrets, then looks for all of them, and for anything of their shape."""

    def __init__(self) -> None:
        self._known: dict[bytes, str] = {}
        for name, shape in _SHAPES.items():
            self._learn(name, shape)

    @property
    def size(self) -> int:
        """Spellings that are looked for."""
        return len(self._known)

    def token(self, name: str, token: str) -> None:
        """Look for a token: its signature is what makes it usable, its payload what gives it away."""
        _, payload, signature = token.strip().split(".")
        for part, text in (("payload", payload), ("signature", signature)):
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            self._learn(f"{name}'s {part}", text.encode())
            self._learn(f"{name}'s {part}", raw)

    def key(self, name: str, secret: bytes) -> None:
        """Look for a private key: its raw bytes (a scalar, a seed), or a text that holds one."""
        self._learn(name, secret)

    def _learn(self, name: str, secret: bytes) -> None:
        if len(secret) < SHORTEST:
            raise ValueError(f"{name} is too short to look for")
        self._known |= dict.fromkeys(spellings(secret), name)

    def look(self, content: bytes) -> set[str]:
        """What is in it, by name."""
        found = {name for spelling, name in self._known.items() if spelling in content}
        if _JWT.search(content):
            found.add("a token")
        return found

    def look_through(self, places: Iterable[tuple[str, bytes]]) -> dict[str, set[str]]:
        """Place → what is in it, for the places where anything is."""
        return {place: found for place, content in places if (found := self.look(content))}
