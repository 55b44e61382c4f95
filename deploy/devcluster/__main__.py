"""Entry point of the devcluster's process, which pid 1 of the embedded mesh starts."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence

import uvloop

from deploy.devcluster import app
from deploy.devcluster.launch.handover import Handover
from deploy.devcluster.settings import NODE, parse
from shared.errors import BadInputError
from shared.telemetry.logging import configure

_log = logging.getLogger(__package__)


def main(argv: Sequence[str]) -> int:
    """Run the devcluster. Returns 0 after SIGTERM, 2 for bad input, 1 for an internal error."""
    inherited = Handover.from_environment()
    try:
        settings = parse(argv)
        configure(service="devcluster", instance=NODE, level=settings.log_level, form="text")
        uvloop.run(app.run(settings, inherited))
    except Exception as error:  # noqa: BLE001 - every failure is reported to `meshlog up`, which waits for readiness
        bad = next((each for each in _leaves(error) if isinstance(each, BadInputError)), None)
        if bad is not None:
            inherited.failed(bad.code, str(bad))
            return 2
        _log.critical("the devcluster ends by an error", exc_info=error)
        return 1
    return 0


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
