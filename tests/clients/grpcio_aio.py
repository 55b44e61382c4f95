"""Stock grpcio, its asyncio side: `python -m tests.clients.grpcio_aio PLAN`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec

from tests.clients.plan import Plan, Row, tell

Case = Callable[[Plan], Awaitable[None]]


@contextlib.asynccontextmanager
async def channel(
    plan: Plan, *more: tuple[str, Any], compression: grpc.Compression | None = None
) -> AsyncGenerator[Any]:
    """A connection of its own."""
    credentials = grpc.ssl_channel_credentials(root_certificates=plan.trusted())
    options = [
        ("grpc.ssl_target_name_override", plan.authority),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 1024 * 1024),
        *more,
    ]
    made = grpc.aio.secure_channel(plan.address, credentials, options=options, compression=compression)
    try:
        yield made
    finally:
        await made.close()


def bearing(token: str, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """The metadata of a call."""
    return (("authorization", f"Bearer {token}"), *more)


def stream(made: Any, plan: Plan, token: str, **options: Any) -> Any:
    """An ADS call."""
    return made.stream_stream(plan.delta)(metadata=bearing(token), **options)


async def ask(call: Any, message: bytes, within: float) -> bytes:
    """Send a message and wait for one; fails if the call ends instead."""
    await call.write(message)
    answer = await asyncio.wait_for(call.read(), within)
    assert isinstance(answer, bytes), f"the call ended with {await call.code()}: {await call.details()}"
    assert answer
    return answer


async def lives(call: Any, plan: Plan) -> None:
    """The call ends well when its client has nothing more to say."""
    await call.done_writing()
    assert not isinstance(await asyncio.wait_for(call.read(), plan.within), bytes)
    code = await call.code()
    assert code is grpc.StatusCode.OK, f"it ended with {code}: {await call.details()}"


async def status(made: Any, plan: Plan, token: str = "", *more: tuple[str, str]) -> grpc.StatusCode:
    """The status of a short call."""
    method = made.unary_unary(plan.status)
    try:
        await method(plan.message("status"), metadata=bearing(token or plan.tokens[0], *more), timeout=plan.within)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def together(count: int, message: str) -> Case:
    """So many calls on one connection at once, each with this first message; all are answered."""

    async def case(plan: Plan) -> None:
        async with channel(plan) as made:
            first = plan.message(message)
            calls = [stream(made, plan, plan.tokens[number % len(plan.tokens)]) for number in range(count)]
            answers = await asyncio.gather(*(ask(call, first, plan.within) for call in calls), return_exceptions=True)
            lost = [one for one in answers if isinstance(one, BaseException)]
            assert not lost, f"answered {count - len(lost)} of {count}: {lost[0]!r}"
            for call in calls:
                call.cancel()

    return case


async def deadline(plan: Plan) -> None:
    """A call with a deadline ends at it, and the connection serves on."""
    async with channel(plan) as made:
        began = time.monotonic()
        call = stream(made, plan, plan.tokens[0], timeout=0.5)
        await ask(call, plan.message("first"), plan.within)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - began < 2
        assert await status(made, plan) is grpc.StatusCode.OK


async def cancellation(plan: Plan) -> None:
    """Calls that are given up in any state leave the connection as it was."""
    async with channel(plan) as made:
        for number in range(50):
            call = stream(made, plan, plan.tokens[number % len(plan.tokens)])
            if number % 3:
                await call.write(plan.message("200kB"))
            if number % 3 == 2:
                await asyncio.wait_for(call.read(), plan.within)
            call.cancel()
        await ask(stream(made, plan, plan.tokens[0]), plan.message("first"), plan.within)


async def half_close(plan: Plan) -> None:
    """A client that has nothing more to say is answered, and told that the call is over."""
    async with channel(plan) as made:
        call = stream(made, plan, plan.tokens[0])
        await ask(call, plan.message("first"), plan.within)
        await lives(call, plan)


async def compression(plan: Plan) -> None:
    """A compressed message is answered, or refused with UNIMPLEMENTED; nothing else."""
    async with channel(plan, compression=grpc.Compression.Gzip) as made:
        call = stream(made, plan, plan.tokens[0])
        await call.write(plan.message("200kB"))
        try:
            answer = await asyncio.wait_for(call.read(), plan.within)
            assert isinstance(answer, bytes)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED, error.code()  # noqa: PT017 (of one kind only)


async def keepalive(plan: Plan) -> None:
    """Pings every second and a little, on a call that says nothing, for four seconds."""
    more = (
        ("grpc.keepalive_time_ms", 1200),
        ("grpc.keepalive_timeout_ms", 1000),
        ("grpc.http2.max_pings_without_data", 0),
    )
    async with channel(plan, *more) as made:
        call = stream(made, plan, plan.tokens[0])
        await ask(call, plan.message("first"), plan.within)
        reading = asyncio.ensure_future(call.read())
        done, _ = await asyncio.wait({reading}, timeout=4)
        assert not done, f"the call ended with {await call.code()}: {await call.details()}"
        call.cancel()
        await asyncio.wait({reading})


async def long_metadata(plan: Plan) -> None:
    """Metadata of 16 kB is taken."""
    async with channel(plan) as made:
        more = [(f"x-{number}", "v" * 1000) for number in range(16)]
        assert await status(made, plan, "", *more) is grpc.StatusCode.OK


async def too_long_metadata(plan: Plan) -> None:
    """Metadata of 100 kB ends the call that has it, and none of the others."""
    async with channel(plan) as made:
        other = stream(made, plan, plan.tokens[0])
        await ask(other, plan.message("first"), plan.within)
        more = [(f"x-{number}", "v" * 1000) for number in range(100)]
        assert await status(made, plan, "", *more) is not grpc.StatusCode.OK
        assert await status(made, plan) is grpc.StatusCode.OK
        await lives(other, plan)


async def too_long_message(plan: Plan) -> None:
    """A message of 9 MB ends the call that has it, and none of the others."""
    async with channel(plan) as made:
        other = stream(made, plan, plan.tokens[0])
        await ask(other, plan.message("first"), plan.within)
        call = stream(made, plan, plan.tokens[1])
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await asyncio.wait_for(call.write(plan.message("9MB")), plan.within)
        code = await asyncio.wait_for(call.code(), plan.within)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED, code
        await lives(other, plan)


async def bulky_answer(plan: Plan) -> None:
    """An answer of 5 MB arrives whole."""
    async with channel(plan) as made:
        answer = await ask(stream(made, plan, plan.bulky), plan.message("first"), plan.within)
        assert len(answer) > 5_000_000


async def refusals(plan: Plan) -> None:
    """Without a token, with a wrong one, of no method: each has its status, and the connection serves on."""
    async with channel(plan) as made:
        assert await status(made, plan, "nonsense") is grpc.StatusCode.UNAUTHENTICATED
        call = made.stream_stream(plan.delta)()
        assert await asyncio.wait_for(call.code(), plan.within) is grpc.StatusCode.UNAUTHENTICATED
        call = made.stream_stream("/no/such")(metadata=bearing(plan.tokens[0]))
        assert await asyncio.wait_for(call.code(), plan.within) is grpc.StatusCode.UNIMPLEMENTED
        assert await status(made, plan) is grpc.StatusCode.OK


async def many_short_calls(plan: Plan) -> None:
    """300 calls at once, more than a connection may have: the client waits for room, and all are answered.

    A call goes first, so that the client knows how many it may have.
    """
    async with channel(plan) as made:
        await status(made, plan)
        codes = await asyncio.gather(*(status(made, plan, plan.tokens[n % len(plan.tokens)]) for n in range(300)))
        wrong = [code for code in codes if code is not grpc.StatusCode.OK]
        assert not wrong, f"{len(wrong)} of 300 ended with {wrong[0]}"


CASES: dict[str, Case] = {
    "1 call": together(1, "first"),
    "8 calls, 200 kB each": together(8, "200kB"),
    "16 calls, 200 kB each": together(16, "200kB"),
    "32 calls, 200 kB each": together(32, "200kB"),
    "8 calls, 1 MB each": together(8, "1MB"),
    "256 calls": together(256, "first"),
    "300 short calls": many_short_calls,
    "deadline": deadline,
    "cancellation": cancellation,
    "half close": half_close,
    "compression": compression,
    "keepalive": keepalive,
    "16 kB of metadata": long_metadata,
    "100 kB of metadata": too_long_metadata,
    "message of 9 MB": too_long_message,
    "answer of 5 MB": bulky_answer,
    "refusals": refusals,
}


async def tried(plan: Plan, name: str, case: Case) -> Row:
    """One case, told."""
    try:
        async with asyncio.timeout(3 * plan.within):
            await case(plan)
    except (AssertionError, OSError, TimeoutError, grpc.RpcError, asyncio.InvalidStateError) as error:
        return Row(name, passed=False, detail=f"{type(error).__name__} {error}"[:300].strip())
    return Row(name, passed=True)


async def main(plan: Plan) -> None:
    """All cases, one after the other."""
    for name, case in CASES.items():
        if name not in plan.omit:
            tell(await tried(plan, name, case))


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)))
