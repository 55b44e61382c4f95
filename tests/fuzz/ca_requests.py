"""Fuzz what the CA and its requesters read, with coverage as the guide: `make fuzz-ca [SECONDS=60]`.

CSRs, tokens, claims, issuers' keys, messages of the log, bundles, certificates, PEM, sealed texts, identities and the
stored keys. Needs atheris (`pip install atheris`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from tests.fuzz.guided import fuzz


def load() -> tuple[Callable[[bytes], object], Iterable[bytes]]:
    """What reads them, and good ones."""
    from tests.unit.ca.hostile import judge, seeds

    return judge, seeds()


if __name__ == "__main__":
    sys.exit(fuzz("fuzz-ca", ["services.ca", "shared"], load))
