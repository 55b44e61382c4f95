"""The limits of files that the command reads, in one list for docs/security.md."""

from __future__ import annotations

from cli.history.archive import MOST_BLOCK_BYTES, MOST_CONTENTS_BYTES
from cli.plan.observed_calls import MOST_CALLS
from cli.terminal.output import LONGEST_CELL, LONGEST_LINE
from shared.io.bounded_read import FILE_MB, FILE_MB_VARIABLE, SILENT_SECONDS
from shared.io.yaml_documents import DEEPEST, MOST_DOCUMENTS, MOST_VALUES

_READERS = "apply, compile, check, plan, migrate, bisect"
LIMITS: tuple[tuple[str, str, str, str], ...] = (
    (_READERS, f"`${FILE_MB_VARIABLE}`", str(FILE_MB), "Megabytes of a file that are read."),
    (_READERS, "fixed", str(DEEPEST), "Mappings and lists inside each other in YAML."),
    (_READERS, "fixed", str(MOST_VALUES), "Values of a YAML file, aliases counted as what they stand for."),
    (_READERS, "fixed", str(MOST_DOCUMENTS), "Documents of a YAML file."),
    (_READERS, "fixed", f"{SILENT_SECONDS:g}", "Seconds that a pipe may give nothing."),
    ("plan --calls", "fixed", str(MOST_CALLS), "Different calls of a file."),
    ("replay, --log FILE", "fixed", str(MOST_BLOCK_BYTES), "Bytes of a block of an export, decompressed."),
    ("replay, --log FILE", "fixed", str(MOST_CONTENTS_BYTES), "Bytes of an export's table of contents."),
    ("(every verb)", "fixed", str(LONGEST_LINE), "Characters of a line that are shown; `-o json` has all."),
    ("(every verb)", "fixed", str(LONGEST_CELL), "Characters of a cell of a table that are shown."),
)
"""Verbs, setting, default, what it bounds."""
