"""When probes are asked and what their answers mean, on a clock that a test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from aiohttp import web

from deploy.devcluster.cluster_api import Obj
from deploy.devcluster.kubelet.container import probe_schedule
from deploy.devcluster.kubelet.container.probe_check import (
    ProbeHttpClient,
    ProbeResult,
    ProbeTarget,
    check,
)
from deploy.devcluster.kubelet.container.restart_backoff import RestartBackoff


class Script:
    """Answers in a row, and the time at which each was asked for; ends the probing when they are used up."""

    def __init__(self, answers: Iterable[bool]) -> None:
        self.now = 0.0
        self.asked: list[float] = []
        self._answers = iter(answers)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def check(self) -> ProbeResult:
        try:
            answer = next(self._answers)
        except StopIteration:
            raise EndOfScriptError from None
        self.asked.append(round(self.now, 3))
        return ProbeResult(success=answer)


class EndOfScriptError(Exception):
    pass


async def readiness(probe: Obj, answers: Iterable[bool]) -> tuple[list[bool], list[float]]:
    script, told = Script(answers), list[bool]()
    with pytest.raises(EndOfScriptError):
        await probe_schedule.watch_readiness(
            probe, script.check, lambda ready, _: told.append(ready), sleep=script.sleep
        )
    return told, script.asked


async def test_until_the_first_success_readiness_is_asked_eagerly_and_then_by_its_period() -> None:
    told, asked = await readiness({"periodSeconds": 10}, [False, False, True, True, True])
    assert asked == [0.0, 0.1, 0.21, 10.21, 20.21]
    assert told == [False, False, True]


async def test_readiness_turns_only_after_its_thresholds() -> None:
    probe = {"periodSeconds": 1, "failureThreshold": 3, "successThreshold": 2}
    told, _ = await readiness(probe, [True, True, False, False, True, False, False, False, True, True])
    assert told == [True, True, True, True, True, False, True]


async def test_a_container_has_all_the_time_to_start_that_its_probe_gives() -> None:
    script = Script([False] * 1000)
    probe = {"periodSeconds": 2, "failureThreshold": 5, "initialDelaySeconds": 3}
    outcome = await probe_schedule.until_started(probe, script.check, sleep=script.sleep, clock=lambda: script.now)
    assert not outcome.success
    assert script.now == pytest.approx(13.0)


async def test_liveness_needs_failures_in_a_row() -> None:
    script = Script([False, False, True, False, False, False])
    await probe_schedule.until_dead({"periodSeconds": 7}, script.check, sleep=script.sleep)
    assert script.asked == [0.0, 7.0, 14.0, 21.0, 28.0, 35.0]


def test_the_first_restart_is_immediate_and_a_minute_of_running_is_forgiven() -> None:
    record = RestartBackoff()
    assert [record.next(1.0) for _ in range(9)] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert record.next(61.0) == 0.0


async def refuse(_: object) -> tuple[int, str]:
    raise AssertionError


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (302, True), (404, False), (503, False)])
async def test_an_http_probe_is_judged_by_its_status_and_sends_its_headers(status: int, healthy: bool) -> None:  # noqa: FBT001
    seen: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request.headers["X-Probe"])
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    application = web.Application()
    application.router.add_get("/health", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port: int = runner.addresses[0][1]
    http = ProbeHttpClient()
    try:
        target = ProbeTarget(address="127.0.0.1", ports={"web": port}, execute=refuse)
        action = {"path": "/health", "port": "web", "httpHeaders": [{"name": "X-Probe", "value": "yes"}]}
        outcome = await check({"httpGet": action}, target, http)
        assert outcome.success is healthy
        assert seen == ["yes"]
        assert (await check({"tcpSocket": {"port": port}}, target, http)).success
        nameless = await check({"httpGet": {"port": "absent"}}, target, http)
        assert "no port named absent" in nameless.message
    finally:
        await http.close()
        await runner.cleanup()
    refused = await check({"tcpSocket": {"port": port}}, target, http)
    assert not refused.success


async def test_a_probe_that_gets_no_answer_fails_by_its_timeout() -> None:
    async def hang(_: object) -> tuple[int, str]:
        await asyncio.Event().wait()
        return 0, ""

    target = ProbeTarget(address="127.0.0.1", ports={}, execute=hang)
    outcome = await check({"exec": {"command": ["x"]}, "timeoutSeconds": 0.05}, target, ProbeHttpClient())
    assert outcome == ProbeResult(success=False, message="no answer within 0.05 s")
