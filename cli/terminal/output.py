"""Prints all output of the command, so that no verb can forget to escape untrusted text.

Proxies, Kubernetes objects, records of the log and answers of peers hold text that tenants choose. `line`, `note` and
`table` show it on one line each (`shared.io.visible_text`) and cut what is very long; `json` and `yaml` write whole
documents for machines, in ASCII, which escapes the same characters. `tests/unit/cli/terminal/test_output.py` forbids
any other way to print.
"""

from __future__ import annotations

import io
import itertools
import json as _json
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, TextIO

from shared.io.visible_text import visible, width

LONGEST_LINE = 4000
"""Maximum number of characters of a line that are shown."""
LONGEST_CELL = 240
"""Maximum number of characters of a table's cell that are shown."""
_BLANKS = re.compile(" {2,}")


def prepare() -> None:
    """Prepare standard output and error, once at the start: escape unencodable characters, and the text of a bug."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = _bug


def line(text: object = "", *, flush: bool = False) -> None:
    """Print one line on standard output."""
    _write(sys.stdout, visible(str(text), most=LONGEST_LINE), flush=flush)


def note(text: object = "") -> None:
    """Print one line on standard error: progress, errors, hints."""
    _write(sys.stderr, visible(str(text), most=LONGEST_LINE), flush=True)


def lines(texts: Iterable[object]) -> None:
    """Print several lines on standard output."""
    for text in texts:
        line(text)


def block(text: str) -> None:
    """Print a text of this command line by line: its newlines are kept, all other control characters are escaped."""
    lines(text.split("\n"))


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print columns as wide as their cells; blanks within a cell are collapsed, so that none can look like a column."""
    shown = [list(headings), *([cell(each) for each in row] for row in rows)]
    for text in _padded(shown):
        _write(sys.stdout, text)


def columns(rows: Iterable[Sequence[object]], *, least: Sequence[int] = (), indent: int = 2) -> None:
    """Print rows without headings, within a longer text; column i is at least `least[i]` wide, else as `table`."""
    shown = [[cell(each) for each in row] for row in rows]
    for row in _padded(shown, least):
        _write(sys.stdout, " " * indent + row)


def _padded(rows: Sequence[Sequence[str]], least: Sequence[int] = ()) -> Iterator[str]:
    """Rows as lines, in columns two blanks apart, as wide as their cells and at least as wide as `least`."""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    widths = [max(pair) for pair in itertools.zip_longest(widths, least, fillvalue=0)]
    for one in rows:
        yield "  ".join(text + " " * (most - width(text)) for text, most in zip(one, widths, strict=True)).rstrip()


def cell(value: object) -> str:
    """A value as text for a table's cell."""
    return visible(_BLANKS.sub(" ", str(value)).strip(), most=LONGEST_CELL)


def json(value: Any, *, indent: int | None = None, flush: bool = False) -> None:
    """Print a JSON document on standard output."""
    _write(sys.stdout, _json.dumps(value, indent=indent).replace("\x7f", "\\u007f"), flush=flush)


def yaml(*documents: Any, flow: bool | None = False, columns: int = 110) -> None:
    """Print YAML documents on standard output."""
    import yaml as library

    library.dump_all(
        documents,
        sys.stdout,
        Dumper=library.CSafeDumper,
        sort_keys=False,
        default_flow_style=flow,
        width=columns,
    )


def log_of_a_container(text: str, *, raw: bool) -> None:
    """Print a container's output: unchanged into files, pipes and with `raw`; escaped line by line on a terminal."""
    if raw or not sys.stdout.isatty():
        sys.stdout.write(text)
        return
    for one in text.removesuffix("\n").split("\n"):
        _write(sys.stdout, "\t".join(map(visible, one.split("\t"))))


def clear() -> None:
    """Clear the screen."""
    sys.stdout.write("\033[2J\033[H")


def ask(question: str) -> None:
    """Print a question, without a newline, to be answered by the next line of standard input."""
    sys.stdout.write(f"{visible(question, most=LONGEST_LINE)} ")
    sys.stdout.flush()


def on_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def closed() -> None:
    """Discard all further output, after the reader of standard output has exited."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    note("meshlog: this is a bug, please report it with these lines:")
    for part in traceback.format_exception(kind, error, trace):
        for text in part.removesuffix("\n").split("\n"):
            note(f"  | {text}")


def _write(stream: TextIO, text: str, *, flush: bool = False) -> None:
    stream.write(text + "\n")
    if flush:
        stream.flush()
