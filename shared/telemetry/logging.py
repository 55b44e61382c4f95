"""Structured logging: one JSON object a line on stderr, with nothing secret in it.

The standard library's logging with a formatter of ours, so that the lines of libraries look the same. Fields beside
the message go in by `extra={"sequence": 7}`. No code of ours logs a secret; the redaction of tokens, keys and
passwords is a net below that, for texts of errors that others wrote.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import msgspec

from shared.errors import BadInputError, MeshlogError
from shared.io.visible_text import lines, visible
from shared.telemetry.traces import current_traceparent

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_SECRETS = (
    (re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+"), "[token]"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL), "[key]"),
    (re.compile(r"(?i)\b(bearer|basic) [\w.~+/=-]{8,}"), r"\1 [redacted]"),
    (re.compile(r"://([^/\s:@]*):[^/\s@]+@"), r"://\1:[password]@"),
)


_LONGEST = 16 * 1024
"""Characters of one text in a line: a peer's message may have megabytes."""
_UNPRINTABLE = re.compile(r"[^ -~]")


def redact(text: str) -> str:
    """The text without tokens, private keys, authorisation headers and passwords in addresses."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text) - _LONGEST} more characters)"


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON."""

    def __init__(self, *, service: str, instance: str) -> None:
        super().__init__()
        self._fixed = {"service": service, "instance": instance}

    def format(self, record: logging.LogRecord) -> str:
        """Time (RFC 3339, UTC), level, logger, message, and what stands in `extra`, the trace and the error."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            **self._fixed,
            "logger": record.name,
            "message": _cut(redact(record.getMessage())),
        }
        line |= {
            key: _cut(redact(value)) if isinstance(value, str) else value
            for key, value in vars(record).items()
            if key not in _OWN
        }
        if traceparent := current_traceparent():
            line.setdefault("traceparent", traceparent)
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            if isinstance(error, MeshlogError):
                line["error"] = {"code": error.code, "about": error.about, "sentence": _cut(redact(error.sentence))}
            else:
                line["error"] = {"code": type(error).__name__, "sentence": _cut(redact(str(error)))}
                line["traceback"] = _cut(redact(self.formatException(record.exc_info)))
        try:
            text = msgspec.json.encode(line, enc_hook=lambda value: redact(str(value))).decode()
        except UnicodeEncodeError:  # half of a surrogate pair, from bytes that were no text
            text = json.dumps(line, default=lambda value: redact(str(value)))
        return _in_ascii(text)


def _in_ascii(text: str) -> str:
    """JSON with escapes for what a terminal would obey or reorder: people read these lines with `kubectl logs`."""
    return text if text.isprintable() else _UNPRINTABLE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    text = found[0]
    if text.isprintable():
        return text
    units = text.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(units[at : at + 2], 'big'):04x}" for at in range(0, len(units), 2))


class TextFormatter(logging.Formatter):
    """A log record for eyes."""

    def format(self, record: logging.LogRecord) -> str:
        """Time of day, level, message, and the fields of `extra`."""
        fields = " ".join(f"{key}={value}" for key, value in vars(record).items() if key not in _OWN)
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        text = redact(f"{moment} {record.levelname.lower():7} {record.getMessage()} {fields}".rstrip())
        shown = [visible(text, most=_LONGEST)]
        if record.exc_info and record.exc_info[1] is not None and not isinstance(record.exc_info[1], MeshlogError):
            # Marked: no line of it can look like a record of its own.
            shown += [f"  | {line}" for line in lines(redact(self.formatException(record.exc_info)), most=_LONGEST)]
        return "\n".join(shown)


LEVELS = ("debug", "info", "warning", "error")

_CHATTY = ("asyncio", "nats", "aiohttp.access", "kubernetes", "urllib3")
"""Libraries whose lines below "warning" are about themselves; what matters of it reaches us as errors."""


def levels_of(texts: Sequence[str]) -> dict[str, str]:
    """Read levels by package, PACKAGE=LEVEL each: logger → level.

    Raises `BadInputError` for an unknown level, and for a name that no module has: its level would have no effect.
    """
    levels: dict[str, str] = {}
    for text in texts:
        name, _, level = text.partition("=")
        if level not in LEVELS:
            raise BadInputError(
                "settings/log-levels", f"needs PACKAGE=LEVEL, LEVEL one of {', '.join(LEVELS)}", about=text
            )
        if name not in _CHATTY and not _is_module(name):
            raise BadInputError(
                "settings/log-levels", "names no package or module; try services.ca or shared.eventlog", about=text
            )
        levels[name] = level
    return levels


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def configure(
    *,
    service: str,
    instance: str,
    level: str,
    form: str,
    levels: Mapping[str, str] | None = None,
    stream: TextIO | None = None,
) -> None:
    """Send every logger's lines to stderr in our form. Called once, by the process shell.

    Each module logs under its own import path, so `levels` (logger → level) sets the level of a package or module.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(TextFormatter() if form == "text" else JsonFormatter(service=service, instance=instance))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, own in {**dict.fromkeys(_CHATTY, "warning"), **(levels or {})}.items():
        logging.getLogger(name).setLevel(own.upper())
