"""Each verb on an exported file: what it prints first, and its exit code."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from envoy.config.listener.v3.listener_components_pb2 import Filter

from cli.__main__ import main
from services.compiler.render import listeners
from tests.property.history.worlds import exported, recorded
from tests.unit.compiler import objects


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bookstore, then a policy that is taken away."""
    history = objects.bookstore()
    last = next(event for event in reversed(history) if event.kind == "TrafficTarget")

    async def make() -> None:
        gone = objects.deleted("TrafficTarget", last.namespace, last.name)
        archive = await exported(await recorded([[event] for event in [*history, gone]]), tmp_path / "log")
        archive.close()

    asyncio.run(make())
    monkeypatch.setenv("MESHLOG_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


@pytest.fixture
def dangling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bookstore, by a compiler whose listeners refer to a cluster that no view holds."""
    real = listeners._tcp  # pyright: ignore[reportPrivateUsage]

    def elsewhere(name: str, clusters: Sequence[tuple[str, int]], *, sticky: bool = False) -> Filter:
        return real(name, clusters or [("nowhere", 1)], sticky=sticky)

    monkeypatch.setattr(listeners, "_tcp", elsewhere)

    async def make() -> None:
        (await exported(await recorded([[event] for event in objects.bookstore()]), tmp_path / "log")).close()

    asyncio.run(make())
    monkeypatch.setenv("MESHLOG_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    code = main(list(argv))
    return code, capsys.readouterr().out


def test_log_show_and_diff_tell_what_happened(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "deleted  TrafficTarget" in run(capsys, "log", "-n", "1")[1]
    assert "TrafficTarget" not in run(capsys, "log", "--kind", "Service")[1]
    code, text = run(capsys, "show", "HEAD")
    assert code == 0
    assert "because of:" in text
    code, text = run(capsys, "diff", "HEAD~1", "HEAD")
    assert code == 1
    assert "1 objects changed" in text
    assert run(capsys, "diff", "HEAD", "HEAD")[0] == 0


def test_why_names_what_decides_down_to_the_rule(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proxies = [line.split()[0] for line in run(capsys, "proxies")[1].splitlines()[1:]]
    assert proxies
    for proxy in proxies:
        held = [
            line.split()[1] for line in run(capsys, "show", "HEAD", "--proxy", proxy)[1].splitlines()[1:] if "/" in line
        ]
        assert run(capsys, "show", "HEAD", "--proxy", proxy, "listener/inbound")[0] == 0
        for resource in [name for name in held if name.startswith(("cluster/", "route/", "listener/", "endpoints/"))]:
            code, text = run(capsys, "why", proxy, resource)
            assert code == 0
            assert "decided by:" in text
            assert "inconsistent" not in text
    assert main(["why", proxies[0], "cluster/none"]) == 2
    assert "it holds" in capsys.readouterr().err


def test_replay_and_why_tell_of_a_snapshot_that_is_inconsistent(
    dangling: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The replay makes the same bytes, so there is no difference: it is the snapshot itself that is wrong."""
    code, text = run(capsys, "replay", str(dangling), "--verify")
    assert code == 1
    assert "is inconsistent:\n  class " in text
    assert "refers to cluster nowhere, which is not there" in text
    assert run(capsys, "replay", str(dangling))[0] == 0, "not asked for"
    proxy = run(capsys, "proxies")[1].splitlines()[1].split()[0]
    code, text = run(capsys, "why", proxy, "listener/inbound")
    assert code == 0
    assert "what this proxy holds is inconsistent" in text
    assert "refers to cluster nowhere, which is not there" in text
    assert json.loads(run(capsys, "why", proxy, "listener/inbound", "-o", "json")[1])["inconsistent"]


def test_a_plan_of_nothing_is_nothing_and_of_a_deletion_is_not(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = next(event for event in objects.bookstore() if event.kind == "TrafficTarget")
    code, text = run(capsys, "plan", "--envoys", "0", "--delete", f"TrafficTarget/{target.namespace}/{target.name}")
    assert code == 1
    assert "would see a change" in text
    assert main(["plan", "--delete", "TrafficTarget/no/such"]) == 2
    capsys.readouterr()


def test_a_plan_judges_the_calls_that_were_seen(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = tmp_path / "calls"
    calls.write_text(
        '{"from": "sa:buy/buyer", "to": "svc:store/store-v1", "path": "/books"}\n'
        '{"from": "buy/buyer-0", "to": "svc:store/store-v1", "path": "/books"}\n'
        '{"from": "buy/buyer-0", "to": "svc:store/store-v1", "path": "/elsewhere"}\n\n'
        '{"from": "buy/stranger", "to": "svc:store/store-v1"}\n'
    )
    argv = ["plan", "--envoys", "0", "--delete", "TrafficTarget/store/buyer-v1", "--calls", str(calls)]
    code, text = run(capsys, *argv)
    assert code == 1
    assert "of 4 calls seen: 0 newly allowed, 2 newly denied, 1 between names that are not there" in text
    assert "denied: sa:buy/buyer -> svc:store/store-v1 GET /books" in text
    seen = json.loads(run(capsys, *argv, "-o", "json")[1])["seen"]
    assert (seen["asked"], seen["unknown"], len(seen["denied"]), seen["allowed"]) == (4, 1, 2, [])
    calls.write_text('{"from": "buy/buyer-0"}\n')
    assert main(argv) == 2
    assert f"{calls}:1" in capsys.readouterr().err


def test_bisect_finds_the_version_at_which_an_object_went(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    versions = [line for line in run(capsys, "log", "-n", "1000")[1].splitlines() if line]
    script = "import os, sys; sys.exit('kind: HTTPRouteGroup' in open(os.environ['MESHLOG_OBJECTS']).read())"
    # The command calls a version bad that holds a route group: the first one that does is found.
    group = next(int(line.split()[0]) for line in versions if "HTTPRouteGroup" in line)
    first = run(capsys, "show", "HEAD~0")[1].split()[1].rstrip(",")
    code, text = run(capsys, "bisect", "--good", "1", "--bad", first, "--", sys.executable, "-c", script)
    assert code == 0
    assert int(text.split()[0]) >= group


def test_what_needs_a_live_log_says_so(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollback", "HEAD~1"]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["unpin"]) == 2
    assert "not pinned" in capsys.readouterr().err
    assert main(["rollout", "--last"]) in {0, 124}
    assert main(["status"]) == 1
    assert "proxies in sync" in capsys.readouterr().out


def test_a_replay_with_another_history_is_a_difference(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "replay", str(log), "--verify")
    assert code == 0
    assert "versions are what was published" in text
