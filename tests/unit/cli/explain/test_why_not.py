"""Why a call does not pass: the decision, the rule or its absence, when it was otherwise last, and what turned it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.__main__ import main
from cli.calls.matching import HttpRequest
from cli.explain.call_history import CallQuery, decide, last_otherwise
from cli.explain.proxy_reality import remarks
from cli.history.timeline import Timeline
from shared.errors import BadInputError
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import Draft
from shared.records.events import Event
from shared.records.proxy_status import NackedResource, ProxyStatus, TypeStatus, encode_status
from shared.records.snapshot import CDS
from tests.property.history.worlds import exported, recorded
from tests.unit.compiler import objects

TARGET = next(event for event in objects.bookstore() if event.name == "buyer-v1")
GROUP = next(event for event in objects.bookstore() if event.kind == "HTTPRouteGroup")
GONE = objects.deleted(TARGET.kind, TARGET.namespace, TARGET.name)
OTHER_PATHS = objects.route_group("store", "routes", {"name": "browse", "pathRegex": "/magazines", "methods": ["GET"]})
BOOKS = HttpRequest(path="/books")
Ask = Callable[..., tuple[int, str]]
BUYING = ("why-not", "buy/buyer-0", "svc:store/store-v1", "--path", "/books")


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Ask a log that ends with some events, by the command."""

    def run(last: list[Event], *argv: str) -> tuple[int, str]:
        path = tmp_path / f"log{len(list(tmp_path.iterdir()))}"

        async def make() -> None:
            source = await recorded([[event] for event in [*objects.bookstore(), *last]])
            (await exported(source, path)).close()

        asyncio.run(make())
        code = main([*argv, "--log", str(path)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_a_denial_names_what_is_missing_and_the_event_that_took_it(ask: Ask) -> None:
    code, text = ask([GONE], *BUYING)
    assert code == 1
    assert "denied" in text.splitlines()[1]
    at = len(objects.bookstore()) + 1
    assert f"it was allowed until version {at}" in text
    assert f"TrafficTarget store/buyer-v1  deleted at {at}" in text


def test_a_call_that_passes_names_its_rule_and_since_when(ask: Ask) -> None:
    code, text = ask([], *BUYING)
    assert code == 0
    assert "allowed by store/buyer-v1" in text
    at = [event.key for event in objects.bookstore()].index(TARGET.key) + 1
    assert f"it was denied until version {at}" in text
    assert f"TrafficTarget store/buyer-v1  applied at {at}" in text


def test_at_any_time_in_history_it_is_as_it_was_then(ask: Ask) -> None:
    assert ask([GONE], *BUYING, "--at", "HEAD~1")[0] == 0
    assert ask([GONE, TARGET], *BUYING, "--at", "HEAD~1")[0] == 1
    code, text = ask([GONE, TARGET], *BUYING)
    assert code == 0
    assert "it was denied until version" in text


def test_a_rule_that_changed_its_paths_is_the_event_that_turned_it(ask: Ask) -> None:
    code, text = ask([OTHER_PATHS], *BUYING)
    assert code == 1
    assert "HTTPRouteGroup store/routes  applied at" in text
    assert ask([OTHER_PATHS], *BUYING[:-1], "/magazines")[0] == 0


def test_what_was_never_otherwise_says_so(ask: Ask) -> None:
    code, text = ask([GONE], "why-not", "buy/thief-0", "svc:store/db", "--port", "5432")
    assert code == 1
    assert "never otherwise" in text


def test_who_is_not_there_is_told_in_one_sentence(ask: Ask) -> None:
    code, text = ask([], "why-not", "buy/nobody", "svc:store/store-v1")
    assert (code, len(text.splitlines())) == (2, 1)
    assert "nobody" in text


@pytest.mark.parametrize("place", [0, 3, 6])
async def test_of_many_events_in_one_version_the_one_that_decided_is_singled_out(place: int) -> None:
    """Neighbours of it change nothing of the call, though some are about its very pods."""
    others = [
        objects.slices("store", "store-v1", {"v1-0": "10.244.2.1"}, unready=[]),
        objects.target("store", "elsewhere", destination="store-v2", sources=[("buy", "thief")], rules=[]),
        objects.deleted("Pod", "buy", "thief-0"),
        objects.namespace("other"),
        objects.service("store", "unused", ip="10.96.9.9"),
        objects.route_group("store", "unused", {"name": "all"}),
    ]
    together = [*others[:place], GONE, *others[place:]]
    timeline = Timeline(await recorded([*([event] for event in objects.bookstore()), together], together=[1]))
    other = await last_otherwise(timeline, await timeline.head(), CallQuery("buy/buyer-0", "svc:store/store-v1", BOOKS))
    assert other is not None
    assert len(other.events) == len(together)
    assert other.decisive is not None
    assert other.decisive.event.key == GONE.key


def test_the_command_names_one_event_and_how_many_more_there_are(ask: Ask) -> None:
    code, text = ask([GONE], *BUYING)
    assert code == 1
    assert "by:\n  " in text
    assert "no TrafficTarget over store/store-v1 names buy/buyer as a source" in text


async def test_a_proxy_that_refuses_or_is_behind_is_named_beside_the_decision() -> None:
    """What was published allows the call, and the caller's sidecar does not have it."""
    source = await recorded([[event] for event in objects.bookstore()])
    timeline = Timeline(source)
    head = await timeline.head()
    assert isinstance(source.status, MemoryLog)
    refused = NackedResource(version=head, resources={}, message="no such field")
    for pod, acked, refusal in (("buy/buyer-0", head - 1, refused), ("store/v1-0", 1, None)):
        namespace, _, name = pod.partition("/")
        proxy = (await timeline.snapshot(head)).proxies[f"{objects.CLUSTER}/{pod}"]
        status = ProxyStatus(
            cluster=objects.CLUSTER,
            namespace=namespace,
            pod=name,
            uid=proxy.uid,
            service_account=proxy.service_account,
            edge="edge-0",
            connected=True,
            since=1,
            types={CDS: TypeStatus(sent=head, acked=acked, acked_at=1, refusal=refusal)},
        )
        subject = source.streams.status_subject(objects.CLUSTER, namespace, name)
        await source.status.publish(Draft(subject, encode_status(status)))
    answers = await decide(
        timeline, await timeline.snapshot(head), CallQuery("buy/buyer-0", "svc:store/store-v1", BOOKS)
    )
    assert [answer.allowed for answer in answers] == [True]
    caller, called = await remarks(source, answers, version=head)
    assert caller.startswith("proxy buy/buyer-0 is refusing (Cluster of")
    assert "no such field" in caller
    assert called.startswith("proxy store/v1-0 is behind (holds 1)")
    assert not await remarks(source, answers, version=head - 1)


@pytest.mark.parametrize("seed", range(6))
async def test_the_last_turn_is_that_which_asking_every_version_finds(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 (a seed that repeats the history)
    slices = [
        objects.slices("store", "store-v1", {"v1-0": "10.244.2.1"}, unready=unready) for unready in ([], ["v1-0"])
    ]
    choices = [GONE, TARGET, OTHER_PATHS, GROUP, *slices, objects.deleted("Pod", "buy", "thief-0")]
    history = [[event] for event in [*objects.bookstore(), *chance.choices(choices, k=12)]]
    timeline = Timeline(await recorded(history, together=[1, 2], keyframe_every=3))
    call = CallQuery("buy/buyer-0", "svc:store/store-v1", HttpRequest(path="/books"))
    turn: tuple[int, bool] | None = None
    last: bool | None = None
    async for found in timeline.commits():
        version = found.commit.version
        try:
            now = all(one.allowed for one in await decide(timeline, await timeline.snapshot(version), call))
        except BadInputError:
            continue
        if last is not None and now != last:
            turn = (version, last)
        last = now
    other = await last_otherwise(timeline, await timeline.head(), call)
    assert (None if other is None else (other.version, other.before)) == turn
    assert other is None or other.events
