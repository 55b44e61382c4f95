"""The blocks of our documents that a reader types or saves, in the order of the page.

A ```console block has command lines (`$ …`) and below each what it prints. In that `…` inside a line stands for any
text, and a line `…` for any lines, none included; a command that is followed by nothing may print anything. Text after
two spaces and a `#` of a command line is said to the reader. A block that the tests cannot run is preceded by the line
`<!-- not run: REASON -->`; one that starts or needs a mesh by `<!-- mesh -->`. A ```yaml block that begins with
`# NAME.yaml` is saved under this name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(\S*)\s*$")
_NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$")
_MESH = "<!-- mesh -->"
_SAVED = re.compile(r"^# ([\w.-]+\.(?:yaml|jsonl))$")
_COMMENT = re.compile(r"\s{2,}# .*$")
ANYTHING = "…"


class Command(NamedTuple):
    """One command line, and what it is said to print."""

    text: str
    """As it is typed, comment included."""
    expected: list[str]
    """Empty: not said."""
    line: int

    @property
    def typed(self) -> str:
        """Without the comment."""
        return _COMMENT.sub("", self.text)


class Block(NamedTuple):
    """A fenced block."""

    document: str
    line: int
    """Of its fence, from 1."""
    language: str
    lines: list[str]
    reason: str
    """Why it is not run; empty: it is."""
    mesh: bool

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def saved(self) -> str:
        """The name that a reader saves it under; empty: it is not to be saved."""
        found = _SAVED.match(self.lines[0]) if self.lines else None
        return found[1] if found else ""

    def commands(self) -> list[Command]:
        """Of a console block. Raises `ValueError` for text before the first command line."""
        found: list[Command] = []
        for number, line in enumerate(self.lines, self.line + 1):
            if line.startswith("$ "):
                found.append(Command(line[2:], [], number))
            elif found and found[-1].text.endswith("\\"):
                found[-1] = found[-1]._replace(text=f"{found[-1].text[:-1].rstrip()} {line.strip()}")
            elif found:
                found[-1].expected.append(line)
            elif line:
                raise ValueError(f"{self.document}:{number}: text before the first command line: {line!r}")
        return [one._replace(expected=_stripped(one.expected)) for one in found]


def blocks(path: Path) -> Iterator[Block]:
    """Every fenced block of a document."""
    before, opened = "", None
    lines: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened = number, fence[1]
            lines = []
        elif opened is not None and fence:
            reason = _NOT_RUN.match(before)
            name = path.relative_to(ROOT).as_posix()
            yield Block(name, *opened, lines, reason[1] if reason else "", mesh=before == _MESH)
            opened, before = None, ""
        elif opened is not None:
            lines.append(line)
        elif line.strip():
            before = line.strip()
    if opened is not None:
        raise ValueError(f"{path.name}:{opened[0]}: the block is not closed")


def agrees(expected: list[str], printed: list[str]) -> bool:
    """Whether what was printed is what the document says: `…` inside a line is any text, `…` alone any lines."""
    if not expected:
        return not printed
    if expected[0].strip() in {ANYTHING, "..."}:
        return any(agrees(expected[1:], printed[start:]) for start in range(len(printed) + 1))
    return bool(printed) and _same(expected[0], printed[0]) and agrees(expected[1:], printed[1:])


def _same(expected: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in expected.rstrip().split(ANYTHING))
    return re.fullmatch(pattern, printed.rstrip()) is not None


def _stripped(lines: list[str]) -> list[str]:
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    return lines
