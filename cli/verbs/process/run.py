"""`meshlog run SERVICE`: runs one service of the control plane in the foreground."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from cli.terminal import output

SERVICES = {
    "ingestor": "services.ingestor.__main__",
    "compiler": "services.compiler.__main__",
    "xds-edge": "services.xds_edge.__main__",
    "ca": "services.ca.__main__",
    "injector": "services.injector.__main__",
}

_USAGE = f"""Usage: meshlog run SERVICE [FLAGS]

Run one service of the control plane in the foreground until SIGTERM or Ctrl-C.
SERVICE is one of: {", ".join(SERVICES)}.

Settings come from flags, then MESHLOG_* environment variables, then --config FILE.
`meshlog run SERVICE --help` lists them with units and defaults.

Example: meshlog run compiler --nats-url nats://127.0.0.1:4222
"""


def main(argv: Sequence[str]) -> int:
    """Call the `main` of the service. Returns its exit code."""
    if argv and argv[0] in {"-h", "--help"}:
        output.block(_USAGE.removesuffix("\n"))
        return 0
    if not argv or argv[0] not in SERVICES:
        what = f"there is no service {argv[0]!r}" if argv else "which service?"
        output.note(f"meshlog run: {what}; one of {', '.join(SERVICES)}")
        return 2
    return importlib.import_module(SERVICES[argv[0]]).main(list(argv[1:]))
