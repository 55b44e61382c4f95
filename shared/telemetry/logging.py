"""Structured logging: one JSON object a line on stderr, with nothing secret in it.

The standard library's logging with a formatter of ours, so that the lines of libraries look the same. Fields beside
the message go in by `extra={"sequence": 7}`. No code of ours logs a secret; the redaction of tokens, keys and
passwords is a net below that, for texts of errors that others wrote.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import Any, TextIO

import msgspec

from shared.errors import MeshlogError
from shared.telemetry.traces import current_traceparent

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_SECRETS = (
    (re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+"), "[token]"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL), "[key]"),
    (re.compile(r"(?i)\b(bearer|basic) [\w.~+/=-]{8,}"), r"\1 [redacted]"),
    (re.compile(r"://([^/\s:@]*):[^/\s@]+@"), r"://\1:[password]@"),
)


def redact(text: str) -> str:
    """The text without tokens, private keys, authorisation headers and passwords in addresses."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


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
            "message": redact(record.getMessage()),
        }
        line |= {
            key: redact(value) if isinstance(value, str) else value
            for key, value in vars(record).items()
            if key not in _OWN
        }
        if traceparent := current_traceparent():
            line.setdefault("traceparent", traceparent)
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            if isinstance(error, MeshlogError):
                line["error"] = {"code": error.code, "about": error.about, "sentence": redact(error.sentence)}
            else:
                line["error"] = {"code": type(error).__name__, "sentence": redact(str(error))}
                line["traceback"] = redact(self.formatException(record.exc_info))
        return msgspec.json.encode(line, enc_hook=lambda value: redact(str(value))).decode()


class TextFormatter(logging.Formatter):
    """A log record for eyes."""

    def format(self, record: logging.LogRecord) -> str:
        """Time of day, level, message, and the fields of `extra`."""
        fields = " ".join(f"{key}={value}" for key, value in vars(record).items() if key not in _OWN)
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        text = f"{moment} {record.levelname.lower():7} {record.getMessage()} {fields}".rstrip()
        if record.exc_info and record.exc_info[1] is not None and not isinstance(record.exc_info[1], MeshlogError):
            text += "\n" + self.formatException(record.exc_info)
        return redact(text)


def configure(*, service: str, instance: str, level: str, form: str, stream: TextIO | None = None) -> None:
    """Send every logger's lines to stderr in our form. Called once, by the process shell."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(TextFormatter() if form == "text" else JsonFormatter(service=service, instance=instance))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Their chatter at "info" is about themselves; what matters of it reaches us as errors.
    for library in ("asyncio", "nats", "aiohttp.access", "kubernetes", "urllib3"):
        logging.getLogger(library).setLevel(logging.WARNING)
