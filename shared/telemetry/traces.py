"""Traces: from the change in Kubernetes to the ACK of the proxy, through the log's headers.

W3C trace context, with spans of our own: a span of the OpenTelemetry SDK costs 12 µs, and most processes export
none. Ids are made and handed on in any case, so that a trace stays connected when only some parts export. An
exporting process writes OTLP/JSON, one object a line, the form that the OpenTelemetry collector's file receiver reads.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import re
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import msgspec

HEADER = "traceparent"
"""Header of log records that carries the trace context, as in HTTP."""

_FORM = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")

Attribute = str | int | float | bool


class Span(msgspec.Struct):
    """A piece of work that took some time."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for the first span of a trace."""
    start: int
    """Nanoseconds since 1970."""
    attributes: dict[str, Attribute]
    links: tuple[str, ...] = ()
    """Traceparents of other traces that this work is part of: the changes that one compile took together."""
    end: int = 0
    error: str = ""

    @property
    def traceparent(self) -> str:
        """What the next part is handed, in a header."""
        return f"00-{self.trace_id}-{self.span_id}-01"

    def set(self, **attributes: Attribute) -> None:
        """Add what is known only now."""
        self.attributes.update(attributes)


_current: contextvars.ContextVar[Span | None] = contextvars.ContextVar("meshlog_span", default=None)
_sinks: list[Callable[[Span], None]] = []


def current_traceparent() -> str:
    """Trace context of the span that this task is in; empty outside of any."""
    span_now = _current.get()
    return span_now.traceparent if span_now else ""


def extract(headers: Mapping[str, str]) -> str:
    """The trace context in a record's headers; empty if there is none, or it is malformed."""
    found = headers.get(HEADER, "")
    return found if _parse(found) else ""


def inject(headers: Mapping[str, str] | None = None, *, traceparent: str = "") -> dict[str, str]:
    """Headers with a trace context: the one given, else the current span's, else unchanged."""
    context = traceparent or current_traceparent()
    return {**(headers or {}), HEADER: context} if context else dict(headers or {})


@contextlib.contextmanager
def span(name: str, *, parent: str = "", links: tuple[str, ...] = (), **attributes: Attribute) -> Generator[Span]:
    """Do work inside a span: the child of `parent` (a traceparent), else of the current span, else of none.

    A `parent` that is malformed starts a new trace: it came from outside. An exception is recorded by its type
    and passes.
    """
    context = _parse(parent) if parent else None
    if context is None and not parent and (outer := _current.get()) is not None:
        context = (outer.trace_id, outer.span_id)
    trace_id, parent_id = context or (os.urandom(16).hex(), "")
    now = Span(
        name=name,
        trace_id=trace_id,
        span_id=os.urandom(8).hex(),
        parent_id=parent_id,
        start=time.time_ns(),
        attributes=attributes,
        links=links,
    )
    token = _current.set(now)
    try:
        yield now
    except BaseException as error:
        now.error = type(error).__name__
        raise
    finally:
        _current.reset(token)
        now.end = time.time_ns()
        for sink in _sinks:
            sink(now)


@contextlib.contextmanager
def exporting(sink: Callable[[Span], None]) -> Generator[None]:
    """Hand every finished span to `sink` for as long as this lasts."""
    _sinks.append(sink)
    try:
        yield
    finally:
        _sinks.remove(sink)


@contextlib.contextmanager
def exporting_to_file(path: Path, *, service: str, instance: str) -> Generator[None]:
    """Append every finished span to a file as OTLP/JSON, one object a line."""
    with path.open("ab") as file:

        def write(finished: Span) -> None:
            file.write(msgspec.json.encode(to_otlp(finished, service=service, instance=instance)) + b"\n")
            file.flush()

        with exporting(write):
            yield


def to_otlp(finished: Span, *, service: str, instance: str) -> dict[str, Any]:
    """A span as an OTLP/JSON `TracesData` (opentelemetry-proto, `trace/v1`): ids in hex, times as decimal text."""
    resource = {"service.name": f"meshlog-{service}", "service.instance.id": instance}
    body: dict[str, Any] = {
        "traceId": finished.trace_id,
        "spanId": finished.span_id,
        "name": finished.name,
        "kind": 1,
        "startTimeUnixNano": str(finished.start),
        "endTimeUnixNano": str(finished.end),
        "attributes": _attributes(finished.attributes),
        "links": [{"traceId": ids[0], "spanId": ids[1]} for ids in map(_parse, finished.links) if ids],
        "status": {"code": 2, "message": finished.error} if finished.error else {},
    }
    if finished.parent_id:
        body["parentSpanId"] = finished.parent_id
    scope = {"scope": {"name": "meshlog"}, "spans": [body]}
    return {"resourceSpans": [{"resource": {"attributes": _attributes(resource)}, "scopeSpans": [scope]}]}


def _attributes(values: Mapping[str, Attribute]) -> list[dict[str, Any]]:
    def value(given: Attribute) -> dict[str, Any]:
        if isinstance(given, bool):
            return {"boolValue": given}
        if isinstance(given, int):
            return {"intValue": str(given)}
        if isinstance(given, float):
            return {"doubleValue": given}
        return {"stringValue": given}

    return [{"key": key, "value": value(given)} for key, given in values.items()]


def _parse(traceparent: str) -> tuple[str, str] | None:
    """Return trace id and span id; None if it is no traceparent (https://www.w3.org/TR/trace-context/#traceparent-header)."""
    match = _FORM.fullmatch(traceparent)
    if match is None or set(match[1]) == {"0"} or set(match[2]) == {"0"}:
        return None
    return match[1], match[2]
