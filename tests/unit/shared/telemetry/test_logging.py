"""Log lines: one JSON object each, with nothing secret in it."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import BadInputError, MeshlogError
from shared.telemetry import traces
from shared.telemetry.logging import JsonFormatter, TextFormatter, configure, levels_of, redact

TOKEN = "eyJhbGciOiJSUzI1NiIs.eyJpc3MiOiJodHRwczovL2t1.c2lnbmF0dXJl-_x"
PROJECT = Path(__file__).parents[4]
KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----"


@pytest.fixture
def written() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(service="ca", instance="ca-0"))
    logger = logging.getLogger("meshlog.test")
    logger.handlers, logger.propagate = [handler], False
    yield logger, stream
    logger.handlers, logger.propagate = [], True


def test_a_line_holds_message_fields_and_trace(written: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = written
    with traces.span("compile") as span:
        logger.warning("version %d\nis out", 7, extra={"sequence": 7, "odd": object})
    (text,) = stream.getvalue().splitlines()
    line: dict[str, Any] = json.loads(text)
    assert line["message"] == "version 7\nis out"
    assert (line["level"], line["service"], line["instance"], line["sequence"]) == ("warning", "ca", "ca-0", 7)
    assert line["traceparent"] == span.traceparent
    assert line["time"].endswith("Z")


HOSTILE = "\x1b]0;owned\x07\x9b2J\r\n12:00:00 info    forged\u202e\u2028\ud800\x7f" + "A" * 100_000


def test_what_peers_say_forges_no_line_and_steers_no_terminal(written: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = written
    logger.warning("refused: %s", HOSTILE, extra={"detail": HOSTILE})
    logger.warning("é is text", extra={"names": [HOSTILE[:40], "é"]})
    logger.error("failed", exc_info=RuntimeError(HOSTILE))
    text = stream.getvalue()
    told = [json.loads(line) for line in text.splitlines()]
    assert len(told) == 3
    assert told[0]["message"].startswith(f"refused: {HOSTILE[:40]}")
    assert "more characters)" in told[0]["detail"]
    assert told[1] | {"time": ""} == told[1] | {"time": "", "message": "é is text", "names": [HOSTILE[:40], "é"]}
    assert "é" in text.splitlines()[1]
    assert text.replace("\n", "").isprintable()
    assert len(text) < 200_000


def test_the_text_form_forges_no_line_either() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter())
    logger = logging.getLogger("meshlog.test-text")
    logger.handlers, logger.propagate = [handler], False
    logger.error("refused: %s", HOSTILE, extra={"detail": HOSTILE}, exc_info=RuntimeError(HOSTILE))
    first, *others = stream.getvalue().splitlines()
    assert "\\x1b]0;owned" in first
    assert others
    assert all(line.startswith("  | ") and line.isprintable() for line in others)


def test_an_error_of_ours_has_its_code_and_others_their_traceback(written: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = written
    for error in (MeshlogError("csr/key", "is too short", about="p"), RuntimeError(f"boom {TOKEN}")):
        logger.error("failed", exc_info=error)
    ours, others = map(json.loads, stream.getvalue().splitlines())
    assert ours["error"] == {"code": "csr/key", "about": "p", "sentence": "is too short"}
    assert "traceback" not in ours
    assert "RuntimeError" in others["traceback"]
    assert TOKEN not in stream.getvalue()


@pytest.mark.parametrize(
    "secret",
    [TOKEN, KEY, KEY.replace("EC ", ""), f"Bearer {TOKEN}", "Authorization: Bearer abcdefgh12345", KEY[:50]],
)
@pytest.mark.parametrize("form", [JsonFormatter(service="s", instance="i"), TextFormatter()])
def test_secrets_do_not_reach_a_line(secret: str, form: logging.Formatter) -> None:
    record = logging.makeLogRecord({"msg": "got %s", "args": (secret,), "levelno": 20, "levelname": "INFO"})
    record.token = secret
    line = form.format(record)
    for part in ("MHcCAQEE", "c2lnbmF0", "abcdefgh12345"):
        assert part not in line


def test_passwords_in_addresses_are_hidden_and_the_rest_stays() -> None:
    assert redact("nats://ca:s3cret@nats:4222 is down") == "nats://ca:[password]@nats:4222 is down"


@given(st.text(alphabet=st.characters(exclude_characters="-:@/", exclude_categories=["Cs"])))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    if "eyJ" not in text and "earer" not in text.lower() and "asic" not in text.lower():
        assert redact(text) == text


@pytest.fixture
def configured() -> Iterator[io.StringIO]:
    """A stream that every logger writes to, and the loggers as they were, afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    before = {name: each.level for name, each in root.manager.loggerDict.items() if isinstance(each, logging.Logger)}
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, each in root.manager.loggerDict.items():
        if isinstance(each, logging.Logger):
            each.setLevel(before.get(name, logging.NOTSET))


def test_a_level_holds_for_a_package_and_a_longer_name_has_its_own(configured: io.StringIO) -> None:
    levels = levels_of(["services.ca=debug", "services.ca.core.issuer=error", "asyncio=info"])
    configure(service="ca", instance="ca-0", level="warning", form="json", levels=levels, stream=configured)
    for name in (
        "services.ca.providers.root_registry",
        "services.ca.core.issuer",
        "services.xds_edge.app",
        "asyncio",
        "nats",
    ):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger(name).log(level, "x")
    told: dict[str, list[str]] = {}
    for line in map(json.loads, configured.getvalue().splitlines()):
        told.setdefault(line["logger"], []).append(line["level"])
    assert told == {
        "services.ca.providers.root_registry": ["debug", "info", "warning", "error"],
        "services.ca.core.issuer": ["error"],
        "services.xds_edge.app": ["warning", "error"],
        "asyncio": ["info", "warning", "error"],
        "nats": ["warning", "error"],
    }


@pytest.mark.parametrize(
    "text",
    ["debug", "services.ca=loud", "services.ca", "=debug", "service.ca=debug", "services.kä=debug", "..=info", ""],
)
def test_a_level_that_would_have_no_effect_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match=r"PACKAGE=LEVEL|no package"):
        levels_of([text])


def test_each_module_logs_under_its_own_import_path() -> None:
    """Levels are set by package, so no logger has another name; `__main__` has no path of its own."""
    found: list[str] = []
    for top in ("services", "shared", "cli", "deploy"):
        for path in sorted((PROJECT / top).rglob("*.py")):
            name = "__package__" if path.name == "__main__.py" else "__name__"
            found += [
                f"{path.relative_to(PROJECT)}: {line}"
                for line in path.read_text().splitlines()
                if re.search(r"= ?logging\.getLogger\(", line)
                and line.strip() not in {f"_log = logging.getLogger({name})", "root = logging.getLogger()"}
                and path != PROJECT / "shared/eventlog/jetstream/quiet_logging.py"
            ]
    assert found == []
