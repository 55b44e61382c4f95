"""Traces hold together from one process to the next, whether or not anybody exports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.telemetry import traces

OUTSIDE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_span_continues_the_trace_that_it_is_handed() -> None:
    with traces.span("ingest", parent=OUTSIDE) as span:
        assert span.traceparent.split("-")[1] == OUTSIDE.split("-")[1]
        assert span.parent_id == "b7ad6b7169203331"
        with traces.span("append") as inner:
            assert (inner.trace_id, inner.parent_id) == (span.trace_id, span.span_id)
            assert traces.current_traceparent() == inner.traceparent
        assert traces.current_traceparent() == span.traceparent
    assert traces.current_traceparent() == ""


@pytest.mark.parametrize("bad", ["", "x", OUTSIDE + "-", "00-" + "0" * 32 + "-b7ad6b7169203331-01", OUTSIDE.upper()])
def test_a_malformed_context_starts_a_new_trace(bad: str) -> None:
    with traces.span("ingest", parent=bad) as span:
        assert span.parent_id == ""
        assert traces.extract({"traceparent": span.traceparent}) == span.traceparent
    assert traces.extract({"traceparent": bad}) == ""


def test_headers_carry_the_current_span_or_the_one_given() -> None:
    assert traces.inject({"a": "b"}) == {"a": "b"}
    assert traces.inject({"a": "b"}, traceparent=OUTSIDE) == {"a": "b", "traceparent": OUTSIDE}
    with traces.span("push") as span:
        assert traces.inject() == {"traceparent": span.traceparent}


def test_finished_spans_are_written_as_otlp(tmp_path: Path) -> None:
    file = tmp_path / "spans.jsonl"

    def compile_and_fail() -> None:
        with traces.span("compile", links=(OUTSIDE, "junk"), version=7, full=True, ratio=0.5) as span:
            span.set(classes="a")
            raise RuntimeError

    with traces.exporting_to_file(file, service="compiler", instance="c-0"), pytest.raises(RuntimeError):
        compile_and_fail()
    with traces.span("after"):
        pass
    (line,) = file.read_text().splitlines()
    resource = json.loads(line)["resourceSpans"][0]
    names = {entry["key"]: entry["value"] for entry in resource["resource"]["attributes"]}
    assert names["service.name"] == {"stringValue": "meshlog-compiler"}
    written = resource["scopeSpans"][0]["spans"][0]
    attributes = {entry["key"]: entry["value"] for entry in written["attributes"]}
    assert attributes == {
        "version": {"intValue": "7"},
        "full": {"boolValue": True},
        "ratio": {"doubleValue": 0.5},
        "classes": {"stringValue": "a"},
    }
    assert written["links"] == [{"traceId": OUTSIDE.split("-")[1], "spanId": OUTSIDE.split("-")[2]}]
    assert written["status"] == {"code": 2, "message": "RuntimeError"}
    assert int(written["endTimeUnixNano"]) >= int(written["startTimeUnixNano"])
