"""What a plan says: literal calls, shares, connections that end, lines that change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import re2
import yaml

from cli.__main__ import main
from cli.plan.draining import Drain, Drains, draining
from cli.plan.planner import copied
from cli.plan.sample_requests import samples
from cli.verbs.policy.plan import drained
from services.compiler.core.offline import compile_events
from shared.policy.regexes import anchored_at_start
from shared.records.events import Event
from shared.records.snapshot import LDS
from tests.property.history.worlds import exported, recorded
from tests.unit.compiler import objects

Plan = Callable[..., tuple[int, str, dict[str, Any]]]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plan:
    """Plan a change of the bookstore; the exit code, the text, and the same as JSON."""

    async def make() -> None:
        (await exported(await recorded([[event] for event in objects.bookstore()]), tmp_path / "log")).close()

    asyncio.run(make())
    monkeypatch.setenv("MESHLOG_LOG", str(tmp_path / "log"))

    def run(*put: dict[str, Any], argv: tuple[str, ...] = ()) -> tuple[int, str, dict[str, Any]]:
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump_all(put))
        whole = ["plan", "--envoys", "0", *(["-f", str(path)] if put else []), *argv]
        code = main(whole)
        text = capsys.readouterr().out
        assert main([*whole, "-o", "json"]) == code
        return code, text, json.loads(capsys.readouterr().out)

    return run


def split(**weights: int) -> dict[str, Any]:
    backends = [{"service": name.replace("_", "-"), "weight": weight} for name, weight in weights.items()]
    return {
        "apiVersion": objects.SPLIT,
        "kind": "TrafficSplit",
        "metadata": {"name": "canary", "namespace": "store"},
        "spec": {"service": "store", "backends": backends},
    }


def group(*matches: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": objects.SPECS,
        "kind": "HTTPRouteGroup",
        "metadata": {"name": "routes", "namespace": "store"},
        "spec": {"matches": list(matches)},
    }


BUY = {"name": "buy", "pathRegex": "/buy.*", "methods": ["GET", "POST"], "headers": {"client": "buyer.*"}}


def test_other_weights_are_told_as_shares_of_calls_that_pass_before_and_after(plan: Plan) -> None:
    code, text, told = plan(split(store_v1=1, store_v2=3))
    assert code == 1
    line = (
        "buy/buyer -> store/store:80 GET /books: store/store-v1 90 %, store/store-v2 10 % -> "
        "store/store-v1 25 %, store/store-v2 75 %"
    )
    assert line in text
    assert line in told["shared"]
    assert (told["allowed"], told["denied"]) == ([], [])
    assert "connections that would end: none" in text
    assert "shared otherwise" not in plan(group({"name": "browse", "pathRegex": "/books"}, BUY))[1]


def test_each_method_is_asked_and_where_an_expression_changes_what_only_one_form_takes(plan: Plan) -> None:
    _, _, told = plan(group({"name": "browse", "pathRegex": "/books$", "methods": ["GET", "PUT"]}, BUY))
    assert "buy/buyer -> store/store-v1:80 PUT /books" in told["allowed"]
    assert "buy/buyer -> store/store-v1:80 GET /booksx" in told["denied"]
    _, _, told = plan(group({"name": "browse", "pathRegex": "/b", "methods": ["*"]}, BUY))
    assert "buy/thief -> store/store-v1:80 GET /b" in told["allowed"]
    assert "buy/thief -> store/store-v1:80 POST /b" in told["allowed"]


def test_a_port_of_bytes_is_asked_for_connections(plan: Plan) -> None:
    _, text, told = plan(argv=("--delete", "TCPRoute/store/db"))
    assert told["denied"] == [
        "store/store-v1 -> store/db:5432 connections",
        "store/store-v2 -> store/db:5432 connections",
    ]
    (drain,) = [one for one in told["drains"] if one["class"].startswith("store/db")]
    assert (drain["listener"], drain["chains"], drain["proxies"], drain["goes"]) == (
        "inbound",
        ["inbound|5432"],
        1,
        False,
    )
    assert "(1 proxy), listener inbound: those of inbound|5432" in text


def test_a_listener_that_goes_ends_all_its_connections() -> None:
    before = compile_events(objects.bookstore())
    after = copied(before)
    workload_class = next(name for name in before.views if name.startswith("buy/thief"))
    del after.views[workload_class][LDS]["outbound"]
    drains = draining(before, after)
    assert drains == Drains(
        [Drain(workload_class, workload_class, proxies=1, listener="outbound", chains=(), goes=True)], leaving=[]
    )
    assert drained(drains.found[0]) == f"{workload_class} (1 proxy), listener outbound: all, for the listener goes"


def test_a_class_that_goes_is_compared_with_what_its_proxies_move_to(plan: Plan) -> None:
    """The database is reached by another port, so its pod is of another class."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "db", "namespace": "store"},
        "spec": {
            "clusterIP": "10.96.1.4",
            "selector": {"app": "db"},
            "ports": [{"port": 5432, "targetPort": 9999, "name": "tcp-db"}],
        },
    }
    _, text, told = plan(service)
    (drain,) = [one for one in told["drains"] if one["class"].startswith("store/db")]
    assert drain["becomes"].startswith("store/db")
    assert drain["becomes"] != drain["class"]
    assert drain["chains"] == ["inbound|5432"]
    assert f"{drain['class']} -> {drain['becomes']} (1 proxy), listener inbound" in text


def test_a_proxy_that_leaves_the_mesh_is_named_and_ends_nothing_by_that(plan: Plan) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "buy"}}
    _, text, told = plan(namespace)
    assert told["leaving"] == ["buy/buyer-0", "buy/thief-0"]
    assert "leaves the mesh: buy/buyer-0; it keeps what it holds" in text
    assert not [one for one in told["drains"] if one["class"].startswith("buy/")]


def test_the_lines_of_the_configuration_that_change_are_shown_on_request(plan: Plan) -> None:
    _, text, told = plan(split(store_v1=50, store_v2=50), argv=("--diff",))
    assert "\n-          weight: 90\n+          weight: 50\n" in text
    (change,) = told["diff"]
    assert change["name"] == "outbound|store/store|80"
    assert "+          weight: 50" in change["lines"]
    assert "diff" not in plan(split(store_v1=50, store_v2=50))[2]


def _group(**match: Any) -> Event:
    return objects.route_group("n", "g", {"name": "m", **match})


@pytest.mark.parametrize(
    "pattern",
    [
        "/books",
        "/buy.*",
        "/v1/[^/]+/x",
        "(?i)/Admin",
        "/(a|b)/c",
        "/a{2,3}$",
        "^/x",
        "/price\\$",
        "/[[:digit:]]+",
        ".*",
    ],
)
def test_a_sample_is_a_path_that_the_match_takes_and_no_expression(pattern: str) -> None:
    found = samples([_group(pathRegex=pattern, methods=["GET"])])
    paths = [one.path for one in found.requests if one.path != "/"] or ["/"]
    assert found.unasked == []
    for path in paths:
        assert re2.fullmatch(anchored_at_start(pattern), path) is not None
        assert path.startswith("/")
        assert path.isprintable()


def test_a_match_that_no_request_can_be_made_for_is_named() -> None:
    found = samples([_group(pathRegex="/a\\b.*", methods=["GET"]), _group(pathRegex="/a\\b.*", methods=["PUT"])])
    assert found.unasked == ["HTTPRouteGroup n/g match m"]
    headed = samples([_group(pathRegex="/a", headers={"x": "\\bword"})])
    assert headed.unasked == ["HTTPRouteGroup n/g match m"]


@pytest.mark.parametrize(("was", "becomes"), [("/a", "/ab"), ("/a.*", "/a$"), ("/[a-c]", "/[b-d]"), ("/x", "/y")])
def test_two_forms_of_a_match_are_told_apart_by_a_sample_of_each_side(was: str, becomes: str) -> None:
    paths = [one.path for one in samples([_group(pathRegex=was), _group(pathRegex=becomes)]).requests]
    takes = [{path for path in paths if re2.fullmatch(anchored_at_start(one), path)} for one in (was, becomes)]
    wider = takes[0] - takes[1], takes[1] - takes[0]
    assert wider[0] or wider[1]
    if (was, becomes) in {("/[a-c]", "/[b-d]"), ("/x", "/y")}:
        assert wider[0]
        assert wider[1]


def test_what_would_have_no_effect_is_warned_of(plan: Plan) -> None:
    egress = {
        "apiVersion": "policy.openservicemesh.io/v1alpha1",
        "kind": "Egress",
        "metadata": {"name": "out", "namespace": "store"},
        "spec": {"hosts": ["example.org"]},
    }
    code, text, told = plan(egress)
    (warning,) = told["warnings"]
    assert warning.startswith("Egress store/out: this kind is not supported yet")
    assert f"warning: {warning}" in text
    assert code == 0, "nothing changes for any proxy"
    assert plan(split(store_v1=1, store_v2=3))[2]["warnings"] == []


def test_what_the_log_cannot_take_is_left_out_with_its_figure(plan: Plan) -> None:
    large = split(store_v1=1, store_v2=3)
    large["metadata"]["labels"] = {f"l{number}": "v" * 60 for number in range(12_000)}
    code, text, _ = plan(large)
    assert code == 2
    assert "TrafficSplit store/canary: has 8" in text
    assert "[object/too-large]" in text
