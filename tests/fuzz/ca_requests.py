"""Fuzz what the CA and its requesters read, with coverage as the guide: `make fuzz-ca [SECONDS=60]`.

CSRs, tokens, claims, issuers' keys, messages of the log, bundles, certificates, PEM, sealed texts, identities and the
stored keys. Needs atheris (`pip install atheris`), which has wheels for Linux only and is therefore no dependency.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> int:
    """Run until the time is over or something breaks; atheris takes its flags from the command line."""
    try:
        import atheris
    except ImportError:
        print("fuzz-ca needs atheris: .venv/bin/python -m pip install atheris", file=sys.stderr)  # noqa: T201
        return 2
    fuzzer: Any = atheris
    with fuzzer.instrument_imports(include=["services.ca", "shared"]):
        from tests.unit.ca.hostile import judge, seeds

    with tempfile.TemporaryDirectory(prefix="meshlog-fuzz-") as corpus:
        for number, content in enumerate(seeds()):
            (Path(corpus) / str(number)).write_bytes(content)
        fuzzer.Setup([*sys.argv, "-max_len=4096", corpus], judge)
        fuzzer.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
