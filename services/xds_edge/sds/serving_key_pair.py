"""The edge's own TLS key and certificate: from the CA through the log, with a copy for a start without either.

The copy contains the edge's own key, never a workload's. Its directory is in memory (a tmpfs that lives as long as the
pod), readable by its owner alone, and never on a disk. With it a restarted edge can serve while NATS and the CA are
down.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
from cryptography import x509

from shared.identity.serving_certificate import ServingCertificate
from shared.io.atomic_file import write_atomically
from shared.io.decoding import decode_msgpack
from shared.service.watch_value import Latest

_log = logging.getLogger(__name__)
_NAME = "serving"


class KeyPair(msgspec.Struct, frozen=True):
    """Key and chain, PEM."""

    key: bytes
    chain: bytes

    def __repr__(self) -> str:
        return "KeyPair(key and chain)"


class ServingKeyPair:
    """The newest key and certificate of this edge."""

    def __init__(self, directory: Path | None) -> None:
        self._path = directory / _NAME if directory is not None else None
        self._latest: Latest[KeyPair] = Latest()

    @property
    def current(self) -> tuple[bytes, bytes] | None:
        """(key, chain), PEM, or None before the first."""
        pair = self._latest.value
        return (pair.key, pair.chain) if pair is not None else None

    async def wait(self) -> None:
        """Wait for the first certificate."""
        await self._latest.wait()

    def load(self, *, now: float) -> bool:
        """Load the copy if it is still valid at `now` (seconds since 1970); returns whether it was."""
        if self._path is None:
            return False
        try:
            pair = decode_msgpack(KeyPair, self._path.read_bytes())
            leaf = x509.load_pem_x509_certificate(pair.chain)
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            _log.warning("the certificate that was kept cannot be used: %s", type(error).__name__)
            return False
        if leaf.not_valid_after_utc.timestamp() <= now:
            return False
        self._latest.set(pair)
        return True

    async def follow(self, serving: ServingCertificate) -> None:
        """Apply each renewal; runs until it is cancelled."""
        async for svid in serving.changes():
            pair = KeyPair(key=svid.key_pem, chain=svid.chain_pem)
            self._latest.set(pair)
            try:
                self._save(pair)
            except OSError as error:
                _log.warning("the certificate cannot be kept: %s", error)

    def _save(self, pair: KeyPair) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Without a sync, which would block the event loop: `load` refuses a damaged copy.
        write_atomically(self._path, msgspec.msgpack.encode(pair), sync="none")
