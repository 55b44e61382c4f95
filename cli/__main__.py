"""Entry of the `meshlog` command: finds the verb, runs it, and turns errors into one sentence and an exit code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from cli.catalogue import VERBS, overview
from cli.osm_verbs import counterpart
from cli.terminal import output
from shared.errors import BadInputError, MeshlogError

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns 0 (done), 1 (failed), 2 (bad input), 130 (interrupted), or the verb's own code."""
    output.prepare()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        output.block(overview())
        return 0 if arguments else BAD_INPUT
    if arguments[0] in {"-V", "--version"}:
        arguments = ["version"]
    verb = VERBS.get(arguments[0])
    instead = counterpart(arguments) if verb is None or arguments[:2] == ["verify", "ingress"] else ""
    if verb is None or instead:
        _complain(instead or f"there is no verb {arguments[0]!r}: see `meshlog --help`")
        return BAD_INPUT
    try:
        return importlib.import_module(verb.module).main(arguments[1:])
    except BadInputError as error:
        _complain(str(error))
        return BAD_INPUT
    except MeshlogError as error:
        # Errors of the log are printed without the subject they are about, since no user asked for a subject.
        of_log = error.code.startswith("log/")
        _complain(f"the log: {error.sentence}; `meshlog status` says what is wrong" if of_log else str(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of standard output (`| head`) has exited, which is no error of this command.
        output.closed()
        return FAILED


def _complain(sentence: str) -> None:
    output.note(f"meshlog: {sentence}")


if __name__ == "__main__":
    sys.exit(main())
