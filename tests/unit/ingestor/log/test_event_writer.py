"""From the cluster to the log, end to end in memory: whatever happens, the log ends equal to the cluster."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingestor.core.reflector import Failure
from services.ingestor.log.event_writer import WriterPolicy
from shared.eventlog.memory import MemoryLog
from shared.eventlog.protocol import EventLog, LogUnavailableError
from shared.eventlog.trim_marker import with_marks
from tests.unit.ingestor.objects import pod
from tests.unit.ingestor.rig import POD, STREAMS, Rig, history, state
from tests.unit.ingestor.scripted import ScriptedServer
from tests.waiting import eventually


def truth(server: ScriptedServer, kind: str = "Pod") -> set[tuple[str, str, str]]:
    """Name, uid and address of each object of the cluster."""
    return {
        (value["metadata"]["name"], value["metadata"]["uid"], value.get("status", {}).get("podIP", ""))
        for value in server.objects.get(kind, {}).values()
    }


async def told(log: EventLog) -> set[tuple[str, str, str]]:
    """The same, of the log."""
    found: set[tuple[str, str, str]] = set()
    for name, (uid, body) in (await state(log)).items():
        address = body.partition('"podIP":"')[2].partition('"')[0]
        found.add((name.rpartition("/")[2], uid, address))
    return found


async def agrees(log: EventLog, server: ScriptedServer, what: str = "the log is what the cluster is") -> None:
    async def probe() -> bool:
        try:
            return await told(log) == truth(server)
        except LogUnavailableError:
            return False

    await eventually(probe, within=5.0, what=what)


async def test_the_first_round_is_one_atomic_batch_of_all_kinds() -> None:
    server, log = ScriptedServer(), MemoryLog()
    for name in ("a", "b", "c"):
        server.apply_pod(name)
    split = {"metadata": {"name": "s", "namespace": "shop", "uid": "us"}, "spec": {"service": "x"}}
    server.apply("TrafficSplit", split)
    async with Rig(server, log) as rig:
        await eventually(lambda: rig.writer.counts.written, within=5.0, what="something is written")
        assert [record.batch async for record in log.read()] == [(1, 4), (2, 4), (3, 4), (4, 4)]


async def test_changes_deletions_and_recreations_arrive_in_order() -> None:
    server, log = ScriptedServer(), MemoryLog()
    server.apply_pod("a")
    async with Rig(server, log):
        await agrees(log, server)
        server.apply_pod("a", ip="10.0.0.2")
        server.delete("Pod", "shop", "a")
        server.apply_pod("a", uid="second")
        await agrees(log, server)
    operations = [(event.operation, event.uid) for event in await history(log)]
    assert operations == [("applied", "uid-a"), ("applied", "uid-a"), ("deleted", "uid-a"), ("applied", "second")]


async def test_heartbeats_write_nothing() -> None:
    server, log = ScriptedServer(), MemoryLog()
    async with Rig(server, log) as rig:
        server.apply_pod("a")
        await agrees(log, server)
        for _ in range(5):
            server.apply_pod("a")
        await eventually(lambda: rig.writer.counts.unchanged >= 5, within=5.0, what="five heartbeats are seen")
    assert len(await history(log)) == 1


async def test_what_was_slept_through_is_found_at_the_next_start() -> None:
    server, log = ScriptedServer(), MemoryLog()
    server.apply_pod("a")
    server.apply_pod("b")
    async with Rig(server, log):
        await agrees(log, server)
    server.delete("Pod", "shop", "a")
    server.apply_pod("b", uid="second")
    server.apply_pod("c")
    server.compact()
    async with Rig(server, log, name="b"):
        await agrees(log, server)
    assert {event.origin.source for event in await history(log)} == {"list"}


async def test_a_restart_in_front_of_an_unchanged_cluster_writes_nothing() -> None:
    server, log = ScriptedServer(), MemoryLog()
    server.apply_pod("a")
    async with Rig(server, log):
        await agrees(log, server)
    before = await log.bounds()
    async with Rig(server, log, name="b") as rig:
        await eventually(lambda: rig.writer.settled >= {"Pod", "TrafficSplit"}, within=5.0, what="it is settled")
    assert await log.bounds() == before


async def test_410_lists_again_and_finds_the_deletion() -> None:
    server, log = ScriptedServer(), MemoryLog()
    server.apply_pod("a")
    async with Rig(server, log) as rig:
        await agrees(log, server)
        server.delete("Pod", "shop", "a")
        server.compact()
        await agrees(log, server)
        assert rig.runners["Pod"].reflector.counts.gone >= 1


async def test_a_silent_connection_is_replaced() -> None:
    server, log = ScriptedServer(), MemoryLog()
    async with Rig(server, log, silence=0.05):
        server.silent = True
        server.apply_pod("a")
        await eventually(lambda: server.watches >= 6, within=5.0, what="watches are tried again")
        server.silent = False
        await agrees(log, server)


async def test_forbidden_and_failing_lists_delete_nothing() -> None:
    server, log = ScriptedServer(), MemoryLog()
    server.apply_pod("a")
    async with Rig(server, log):
        await agrees(log, server)
    server.failures = [Failure("http 403", status=403), Failure("http 500", status=500)] * 10
    async with Rig(server, log, name="b"):
        await eventually(lambda: not server.failures, within=5.0, what="all failures were met")
        await agrees(log, server)
    assert {event.operation for event in await history(log)} == {"applied"}


async def test_a_poisoned_object_is_left_out_alone_and_its_last_good_form_stays() -> None:
    server, log = ScriptedServer(), MemoryLog()
    server.apply_pod("a")
    async with Rig(server, log) as rig:
        await agrees(log, server)
        poison = pod("a", rv=99)
        poison["spec"]["containers"] = 7
        server.apply("Pod", poison)
        server.say("Pod", b'{"type":"FUTURE","object":{}}')
        server.say("Pod", b'{"type":"BOOKMARK","object":{}}')
        server.apply_pod("b")
        await eventually(lambda: rig.runners["Pod"].unreadable == 1, within=5.0, what="the poison is noticed")
        await agrees(log, server)
        server.compact()
        await eventually(lambda: rig.runners["Pod"].unreadable == 2, within=5.0, what="it is met in the list too")
    assert {event.operation for event in await history(log)} == {"applied"}


async def test_a_garbled_line_or_an_error_without_code_costs_a_watch_and_no_fact() -> None:
    server, log = ScriptedServer(), MemoryLog()
    async with Rig(server, log):
        server.apply_pod("a")
        await agrees(log, server)
        for junk in (b"\xff\xfe{", b'{"type":"ERROR","object":{}}', b'{"type":"ERROR"}', b"{" * 9000):
            server.say("Pod", junk)
            server.apply_pod("b", ip=f"10.0.0.{len(junk) % 200}")
            await agrees(log, server)


async def test_a_kind_that_is_missing_appears_without_a_restart_and_disappears_with_all_its_objects() -> None:
    server, log = ScriptedServer(), MemoryLog()
    server.absent.add("TrafficSplit")
    server.apply_pod("a")
    async with Rig(server, log) as rig:
        await eventually(lambda: rig.writer.settled >= {"Pod", "TrafficSplit"}, within=5.0, what="it is settled")
        server.absent.clear()
        server.apply("TrafficSplit", {"metadata": {"name": "s", "namespace": "shop", "uid": "u"}, "spec": {}})

        async def living() -> set[str]:
            return {name.partition(" ")[0] for name in await state(log)}

        async def both() -> bool:
            return await living() == {"Pod", "TrafficSplit"}

        async def pods_only() -> bool:
            return await living() == {"Pod"}

        await eventually(both, within=5.0, what="the split arrives")
        server.objects.pop("TrafficSplit")
        server.absent.add("TrafficSplit")
        server.hang_up()
        await eventually(pods_only, within=5.0, what="discovery has confirmed that the kind is gone")


async def test_a_stale_list_deletes_nothing_and_is_confirmed() -> None:
    """Fault 7: an API server that lags behind answers the list after a reconnect."""
    server, log = ScriptedServer(), MemoryLog()
    server.apply_pod("a")
    past = server.version
    server.apply_pod("b")
    async with Rig(server, log) as rig:
        await agrees(log, server)
        server.stale_list_at = past
        server.compact()
        await eventually(lambda: rig.writer.counts.doubts, within=5.0, what="the list is doubted")
        await agrees(log, server)
    assert {event.operation for event in await history(log)} == {"applied"}


async def test_a_cluster_restored_from_a_backup_is_followed_back() -> None:
    server, log = ScriptedServer(), MemoryLog()
    server.apply_pod("a", ip="10.0.0.1")
    past, restored = server.version, pod("a", ip="10.0.0.1", rv=server.version)
    server.apply_pod("a", ip="10.0.0.9")
    server.apply_pod("b")
    async with Rig(server, log):
        await agrees(log, server)
        server.version, server.objects["Pod"] = past, {("shop", "a"): restored}
        server.history.clear()
        server.compacted = 10**9
        server.hang_up()
        await asyncio.sleep(0)
        await agrees(log, server, "the log follows the restored cluster")


async def test_an_outage_of_the_log_loses_and_repeats_nothing() -> None:
    server, log = ScriptedServer(), MemoryLog()
    async with Rig(server, log) as rig:
        server.apply_pod("a")
        await agrees(log, server)
        log.down()
        for number in range(30):
            server.apply_pod("a", ip=f"10.0.1.{number}")
        await eventually(lambda: rig.writer.trouble, within=5.0, what="the outage shows")
        log.up()
        await agrees(log, server)
        await eventually(lambda: not rig.writer.trouble, within=5.0, what="the outage is over")
    assert len(await history(log)) == 31


async def test_an_append_whose_answer_was_lost_is_not_repeated() -> None:
    """Faults 9 and 30: appended, but the writer received an error."""

    class LosesAnswers(MemoryLog):
        lost = 0

        async def append(self, *args: Any, **kwargs: Any) -> Any:
            checkpoint = await super().append(*args, **kwargs)
            if self.lost < 3:
                self.lost += 1
                self.down()
                asyncio.get_running_loop().call_later(0.01, self.up)
                await super().tip("x.>")
            return checkpoint

    server, log = ScriptedServer(), LosesAnswers()
    for name in "abc":
        server.apply_pod(name)
    async with Rig(server, log):
        await eventually(lambda: log.lost, within=5.0, what="an answer is lost")
        server.apply_pod("d")
        await agrees(log, server)
    names = [event.name for event in await history(log)]
    assert sorted(names) == ["a", "b", "c", "d"]


async def test_two_ingestors_at_once_write_each_change_once() -> None:
    server, log = ScriptedServer(), MemoryLog()
    for number in range(20):
        server.apply_pod(f"p{number}")
    async with Rig(server, log, name="a") as one, Rig(server, log, name="b") as two:
        await agrees(log, server)
        for round_number in range(20):
            server.apply_pod(f"p{round_number}", ip=f"10.0.2.{round_number}")
            if round_number % 3 == 0:
                server.delete("Pod", "shop", f"p{round_number}")
            await asyncio.sleep(0)
        await agrees(log, server)

        def both_idle() -> bool:
            return one.writer.counts.received >= 27 + 2 and two.writer.counts.received >= 27 + 2

        await eventually(both_idle, within=5.0, what="both have seen everything")
        await agrees(log, server)
        assert one.writer.counts.refused + two.writer.counts.refused > 0
    seen = [(event.uid, event.resource_version, event.operation) for event in await history(log)]
    assert len(seen) == len(set(seen)) == 20 + 20 + 7


async def test_a_change_set_arrives_as_one_batch() -> None:
    server, log = ScriptedServer(), MemoryLog()
    async with Rig(server, log) as rig:
        await eventually(lambda: rig.writer.settled >= {"Pod", "TrafficSplit"}, within=5.0, what="it is settled")
        marked = {"annotations": {"meshlog.io/change-set": "together/3"}}
        server.apply_pod("a", **marked)
        split: dict[str, Any] = {"metadata": {"name": "s", "namespace": "shop", "uid": "us", **marked}, "spec": {}}
        server.apply("TrafficSplit", split)
        await asyncio.sleep(0.03)
        assert await log.bounds() == (1, 0)
        server.apply_pod("b", **marked)
        await eventually(lambda: rig.writer.counts.written == 3, within=5.0, what="the set is written")
    assert [record.batch async for record in log.read()] == [(1, 3), (2, 3), (3, 3)]
    assert {event.origin.change_set for event in await history(log)} == {"together"}


async def test_an_incomplete_change_set_is_written_in_time() -> None:
    server, log = ScriptedServer(), MemoryLog()
    async with Rig(server, log, sets=0.05) as rig:
        await eventually(lambda: rig.writer.settled >= {"Pod", "TrafficSplit"}, within=5.0, what="it is settled")
        server.apply_pod("a", annotations={"meshlog.io/change-set": "alone/3"})
        await agrees(log, server)
        assert rig.writer.counts.sets_incomplete == 1


async def test_a_broken_chain_starts_an_epoch_that_holds_everything() -> None:
    server, log = ScriptedServer(), MemoryLog()
    async with Rig(server, log):
        for name in "abc":
            server.apply_pod(name)
            await agrees(log, server)
    log.lose(2)
    server.delete("Pod", "shop", "a")
    async with Rig(server, log, name="b") as rig:
        await eventually(lambda: rig.writer.counts.epochs, within=5.0, what="a new epoch begins")
    tip = await log.tip(STREAMS.cluster_scope("c1"))
    assert tip.epoch == with_marks("b1")
    newest = [record async for record in log.read() if record.epoch == tip.epoch]
    assert [record.batch for record in newest] == [(1, 2), (2, 2)]


async def test_a_rolled_back_log_is_noticed_at_the_next_append() -> None:
    server, log = ScriptedServer(), MemoryLog()
    async with Rig(server, log) as rig:
        for name in "abc":
            server.apply_pod(name)
            await agrees(log, server)
        log.roll_back(1)
        server.apply_pod("d")
        await eventually(lambda: rig.writer.counts.epochs == 2, within=5.0, what="a new epoch begins")
        await agrees(log, server)


async def test_a_rolled_back_log_is_noticed_while_nothing_happens() -> None:
    server, log = ScriptedServer(), MemoryLog()
    patience = WriterPolicy(gather=0.5, gather_epoch=0.5, retry=0.005, glance=0.05, scrub=60.0)
    async with Rig(server, log, patience=patience) as rig:
        for name in "abc":
            server.apply_pod(name)
            await agrees(log, server)
        log.roll_back(2)
        await eventually(lambda: rig.writer.counts.epochs == 2, within=5.0, what="a new epoch begins")
        await agrees(log, server)


async def test_a_thousand_and_more_objects_are_split_and_all_arrive() -> None:
    server, log = ScriptedServer(page=500), MemoryLog()
    server.objects["Pod"] = {("shop", f"p{number}"): pod(f"p{number}", rv=5) for number in range(1200)}
    async with Rig(server, log):
        await agrees(log, server)
    assert [record.batch[1] async for record in log.read()] == [1000] * 1000 + [200] * 200


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), st.sampled_from("abc"), st.integers(1, 3)),
        st.tuples(st.just("recreate"), st.sampled_from("abc"), st.integers(1, 3)),
        st.tuples(st.just("delete"), st.sampled_from("abc"), st.just(0)),
        st.tuples(
            st.sampled_from(["compact", "hang up", "yield", "log down", "log up", "junk"]), st.just(""), st.just(0)
        ),
        st.tuples(st.just("fail"), st.just(""), st.sampled_from([400, 403, 404, 410, 422, 429, 500, 503])),
        st.tuples(st.just("break off"), st.just(""), st.integers(0, 2)),
        st.tuples(st.just("stale list"), st.just(""), st.integers(1, 6)),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS, st.booleans())
def test_whatever_the_server_and_the_log_do_the_log_ends_equal_to_the_cluster(
    operations: list[tuple[str, str, int]],
    streams: bool,  # noqa: FBT001 (hypothesis draws it)
) -> None:
    asyncio.run(_play(operations, streams=streams))


async def _play(operations: list[tuple[str, str, int]], *, streams: bool) -> None:
    server, log = ScriptedServer(page=1, streams=streams), MemoryLog()
    uids = 0
    async with Rig(server, log, kinds=(POD,), name="a"), Rig(server, log, kinds=(POD,), name="b"):
        for what, name, number in operations:
            match what:
                case "apply":
                    uid = server.objects.get("Pod", {}).get(("shop", name), {}).get("metadata", {}).get("uid")
                    uids += uid is None
                    server.apply_pod(name, uid=uid or f"u{uids}", ip=f"10.0.0.{number}")
                case "recreate":
                    server.delete("Pod", "shop", name)
                    uids += 1
                    server.apply_pod(name, uid=f"u{uids}", ip=f"10.0.0.{number}")
                case "delete":
                    server.delete("Pod", "shop", name)
                case "compact":
                    server.compact()
                case "hang up":
                    server.hang_up()
                case "log down":
                    log.down()
                case "log up":
                    log.up()
                case "junk":
                    server.say("Pod", b'{"type":"ADDED","object":{"metadata":{"name":"\xff"}}}')
                case "fail":
                    server.failures.append(Failure(f"http {number}", status=number))
                case "break off":
                    server.breaks_after = number
                case "stale list":
                    server.stale_list_at = max(10, server.version - number)
                case _:
                    await asyncio.sleep(0.002)
        log.up()
        server.failures.clear()
        server.stale_list_at = server.breaks_after = None
        server.compact()
        await agrees(log, server)
