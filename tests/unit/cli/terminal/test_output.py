"""Every verb prints through `cli.terminal.output`; no text of others leaves its line or steers a terminal."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

import cli
from cli.__main__ import main
from cli.catalogue import VERBS
from cli.demo.display import LiveDisplay
from cli.demo.report import DemoCheck
from cli.terminal import output
from shared.eventlog.protocol import Draft
from shared.records.certificate_records import AuditNote, SigningAnswer, encode
from shared.records.events import Event, EventOrigin
from shared.records.proxy_status import NackedResource, ProxyStatus, TypeStatus, encode_status
from shared.records.snapshot import CDS, SDS
from shared.records.subjects import Streams
from tests.property.history.worlds import exported, recorded
from tests.unit.compiler import objects

ROOT = Path(cli.__file__).parent
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b2J\rready\nbuy/forged  in sync\u202e\u2028" + "A" * 9000
STREAMS = Streams()
_OUTSIDE = {("demo/display.py", "Console")}
"""What draws by itself: `LiveDisplay` escapes what it is told (`test_the_demo_…`)."""


def ways_out(path: Path) -> list[str]:
    """Where a module writes to a terminal by itself."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Call(func=ast.Name(id="print" | "Console" as name)):
                found.append(name)
            case ast.Attribute(
                value=ast.Name(id="sys"), attr="stdout" | "stderr" | "__stdout__" | "__stderr__" as name
            ):
                found.append(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr="write")):
                found.append("os.write")
            case ast.ImportFrom(module="sys"):
                found.append("from sys import")
            case _:
                pass
    return found


def test_no_module_of_the_command_prints_but_the_one_that_may() -> None:
    found = {
        (str(path.relative_to(ROOT)), way)
        for path in ROOT.rglob("*.py")
        if path != ROOT / "terminal" / "output.py"
        for way in ways_out(path)
    }
    assert found == _OUTSIDE


def test_a_way_out_is_noticed(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("import sys\nprint('a')\nsys.stdout.write('b')\n")
    assert ways_out(module) == ["print", "stdout"]


def harmless(text: str) -> None:
    """Nothing in it steers a terminal; newlines end lines."""
    bad = {one for one in text if one != "\n" and unicodedata.category(one) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}}
    assert not bad
    assert max(map(len, text.split("\n"))) < 3 * output.LONGEST_LINE
    assert not [line for line in text.split("\n") if line.startswith(("ready", "buy/forged"))]


def hostile_bookstore() -> list[Event]:
    """The bookstore, applied by a manager whose name is an attack, with an object that is left out for its text."""
    origin = EventOrigin(source="watch", manager=HOSTILE[:120])
    bad = objects.event(
        "TrafficTarget",
        "store",
        "hostile",
        {"metadata": {"name": "hostile"}, "spec": {"destination": {"kind": HOSTILE, "name": HOSTILE}}},
        api_version=objects.ACCESS,
    )
    return [msgspec.structs.replace(event, origin=origin) for event in [*objects.bookstore(), bad]]


async def statuses(log: Any, pods: Sequence[str]) -> None:
    for number, pod in enumerate(pods):
        namespace, _, name = pod.partition("/")
        refusal = NackedResource(version=1, resources={HOSTILE: HOSTILE}, message=HOSTILE)
        status = ProxyStatus(
            cluster=objects.CLUSTER,
            namespace=namespace,
            pod=name,
            uid=HOSTILE,
            service_account=HOSTILE,
            edge=HOSTILE,
            connected=bool(number % 2),
            since=10**18 * number,
            types={CDS: TypeStatus(refusal=refusal), SDS: TypeStatus(acked=10**15)},
            certificate_bundle=999_999_999_999,
            certificate_until=999_999_999_999,
            stuck=HOSTILE,
        )
        await log.publish(Draft(STREAMS.status_subject(objects.CLUSTER, namespace, name), encode_status(status)))
        await log.publish(Draft(STREAMS.status_subject(objects.CLUSTER, namespace, "other"), encode_status(status)))
        await log.publish(
            Draft(STREAMS.status_subject(objects.CLUSTER, namespace, "none"), b'{"error": {"code": 404}}')
        )


@pytest.fixture
def hostile_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An exported log in which everything that can hold text of a tenant does, and holds an attack."""

    async def make() -> None:
        source = await recorded([[event] for event in hostile_bookstore()])
        await statuses(source.status, ["buy/buyer-0", "buy/thief-0", "store/v1-0"])
        answer = SigningAnswer(
            id="1", spiffe_id=HOSTILE, chain=[HOSTILE], serial="ab", not_after=10**17, pod="buy/buyer-0", root=HOSTILE
        )
        note = AuditNote(what="refused", code=HOSTILE, why=HOSTILE, requester=HOSTILE, asked_for=HOSTILE)
        certs: Any = source.certs
        await certs.publish(Draft(STREAMS.issued_subject(HOSTILE, "1"), encode(answer)))
        await certs.publish(Draft(STREAMS.audit_subject("refused"), encode(note)))
        (await exported(source, tmp_path / "log")).close()

    asyncio.run(make())
    monkeypatch.setenv("MESHLOG_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


READERS: tuple[tuple[str, ...], ...] = (
    ("status",),
    ("proxies",),
    ("proxies", "-o", "wide"),
    ("rollout", "--last"),
    ("log",),
    ("show", "HEAD"),
    ("show", "HEAD", "--object", "TrafficTarget/store/hostile"),
    ("show", "HEAD", "--proxy", "buy/buyer-0"),
    ("show", "HEAD", "--proxy", "buy/buyer-0", "listener/inbound"),
    ("diff", "1", "HEAD"),
    ("diff", "1", "HEAD", "--proxy", "buy/buyer-0"),
    ("diff", "HEAD~1", "HEAD", "--object", "TrafficTarget/store/hostile"),
    ("why", "buy/buyer-0", "listener/inbound"),
    ("why", "buy/buyer-0", f"listener/{HOSTILE}"),
    ("why-not", "buy/buyer-0", "svc:store/store-v1", "--path", HOSTILE),
    ("why-not", HOSTILE, "svc:store/store-v1"),
    ("plan", "--envoys", "0", "--delete", "TrafficTarget/store/buyer-v1"),
    ("plan", "--envoys", "0", "--delete", f"TrafficTarget/store/{HOSTILE}"),
    ("bisect", "--good", "1", "--bad", "HEAD", "--", "true"),
    ("rollback", HOSTILE),
)


@pytest.mark.parametrize("words", READERS, ids=lambda words: "-".join(words)[:40].replace("\x1b", "ESC"))
def test_what_a_verb_says_of_a_hostile_log_is_harmless(
    hostile_log: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    main(list(words))
    said = capsys.readouterr()
    assert said.out or said.err
    harmless(said.out)
    harmless(said.err)


@pytest.mark.parametrize(
    "words",
    [
        ("status", "-o", "json"),
        ("proxies", "-o", "json"),
        ("rollout", "--last", "-o", "json"),
        ("why", "buy/buyer-0", "listener/inbound", "-o", "json"),
        ("plan", "--envoys", "0", "--delete", "TrafficTarget/store/buyer-v1", "-o", "json"),
    ],
)
def test_json_stays_json_and_keeps_every_character(
    hostile_log: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    main(list(words))
    text = capsys.readouterr().out
    assert text.isascii()
    assert "\x7f" not in text
    json.loads(text)
    if words[0] == "proxies":
        assert [one for one in json.loads(text) if HOSTILE in one["reason"]]


def test_a_refusal_takes_one_row_of_the_table(hostile_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["proxies"])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[1:]] == [
        "buy/buyer-0",
        "buy/thief-0",
        "store/db-0",
        "store/v1-0",
        "store/v2-0",
    ]
    assert "more characters)" in rows[2]


def test_certificates_of_a_hostile_log_are_rows(hostile_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cli.certificates import table
    from cli.certificates.roots import CertificateClient
    from cli.history.archive_stream import Archive
    from cli.history.log_source import of_archive
    from cli.verbs.cluster import certificate

    archive = Archive(hostile_log)
    try:
        source = of_archive(archive)
        desk = CertificateClient(None, source.certs, source.status, STREAMS)  # type: ignore[arg-type]
        certificate.tell("audit", asyncio.run(table.audit(desk, 30)))
        certificate.tell("show", [asyncio.run(table.one(desk, "buy/buyer-0"))])
    finally:
        archive.close()
    text = capsys.readouterr().out
    harmless(text)
    assert "not after: 100000000000000000 (no time)" in text


def test_yaml_keeps_what_it_holds_and_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    output.yaml({"a": HOSTILE}, {"b": 1})
    text = capsys.readouterr().out
    assert list(yaml.safe_load_all(text)) == [{"a": HOSTILE}, {"b": 1}]
    assert text.replace("\n", "").isprintable()


def test_rows_inside_a_text_stand_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns end at the widest cell, or where an earlier part of the text had them."""
    output.columns([("added", "a|80", "(2 classes)"), ("gone", "bcdef", "x\ny")], least=(7,))
    assert capsys.readouterr().out == "  added    a|80   (2 classes)\n  gone     bcdef  x\\ny\n"
    output.columns([])
    assert capsys.readouterr().out == ""


def test_blanks_and_wide_characters_make_no_column(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("NAME", "WHY"), [("漢", "a" + " " * 200 + "in sync"), ("ab", "b")])
    assert capsys.readouterr().out == "NAME  WHY\n漢    a in sync\nab    b\n"


def test_the_demo_shows_details_without_markup_and_escapes() -> None:
    from rich.console import Console

    shown = io.StringIO()
    live = LiveDisplay(Console(file=shown, force_terminal=True, width=10_000))
    live.checked(DemoCheck(name="[red]x", held=False, figure=1, unit="ms", detail=HOSTILE))
    live.close()
    text = shown.getvalue()
    assert "[red]x" in text
    assert "\x1b]0;" not in text
    assert "\\x1b]0;owned" in text


def test_a_containers_log_is_raw_into_a_pipe_and_visible_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output.log_of_a_container("a\x1b[2J\tb\nc\n", raw=False)
    assert capsys.readouterr().out == "a\x1b[2J\tb\nc\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.log_of_a_container("a\x1b[2J\tb\nc\n", raw=False)
    assert capsys.readouterr().out == "a\\x1b[2J\tb\nc\n"
    output.log_of_a_container("a\x1b[2J\n", raw=True)
    assert capsys.readouterr().out == "a\x1b[2J\n"


def test_the_text_of_a_bug_is_visible_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    output.prepare()
    error = ValueError(HOSTILE)
    sys.excepthook(type(error), error, error.__traceback__)
    harmless(capsys.readouterr().err)


def test_every_verb_is_looked_at() -> None:
    """A new verb has to say here how its output was looked at: by a log above, or why it prints nothing of others."""
    by_log = {words[0] for words in READERS} | {"certificate"}
    through_output_alone = {
        *("apply", "check", "compile", "demo", "down", "export", "install", "logs", "mesh", "migrate", "namespace"),
        *("replay", "run", "uninstall", "unpin", "up", "upgrade", "verify", "version", "grpc-bootstrap"),
    }
    """`ways_out` finds nothing in them but calls of `cli.terminal.output`."""
    raw_by_nature = {"exec", "sidecar-init"}
    """A terminal in a pod, as `kubectl exec`; and a container that reads no text of others."""
    assert set(VERBS) == by_log | through_output_alone | raw_by_nature
