"""Key store in a file of mode 0600. A file is created by linking a complete one, so it is never partial."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from services.ca.keys.authority import Authority, AuthorityError, StoredAuthority, decode_authority, encode_authority
from services.ca.keys.key_store import load_or_create
from shared.io.atomic_file import write_atomically


class FileKeyStore:
    """A `KeyStore` in a file. It creates the directory with mode 0700."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self, trust_domain: str) -> Authority | None:
        """See `KeyStore`. Raises `AuthorityError` if the file is unreadable, damaged, or readable by other users."""
        try:
            if not self._path.exists():
                return None
            _check_mode(self._path)
            raw = self._path.read_bytes()
        except OSError as error:
            raise self._unusable(error) from error
        return decode_authority(raw, trust_domain=trust_domain, about=str(self._path))

    async def create(self, stored: StoredAuthority) -> None:
        """See `KeyStore`."""
        self._write(stored, replace=False)

    async def replace(self, stored: StoredAuthority) -> None:
        """See `KeyStore`."""
        self._write(stored, replace=True)

    async def load_or_create(self, trust_domain: str, create: Callable[[], StoredAuthority]) -> Authority:
        """See `KeyStore`."""
        return await load_or_create(self, trust_domain, create)

    def _write(self, stored: StoredAuthority, *, replace: bool) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path, encode_authority(stored), replace=replace)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> AuthorityError:
        return AuthorityError("ca/keys-file", f"cannot be used: {error.strerror}", about=str(self._path))


def _check_mode(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise AuthorityError("ca/keys-mode", f"has mode {mode:04o}, others can read it: chmod 600", about=str(path))
