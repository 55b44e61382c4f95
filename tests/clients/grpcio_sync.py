"""Stock grpcio, its synchronous side, calls in threads: `python -m tests.clients.grpcio_sync PLAN`."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import msgspec

from tests.clients.plan import Plan, Row, tell

Case = Callable[[Plan], None]


@contextlib.contextmanager
def channel(plan: Plan) -> Generator[Any]:
    """A connection of its own."""
    credentials = grpc.ssl_channel_credentials(root_certificates=plan.trusted())
    options = [
        ("grpc.ssl_target_name_override", plan.authority),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
    ]
    with grpc.secure_channel(plan.address, credentials, options=options) as made:
        yield made


class Call:
    """An ADS call that sends what it is told until it is over."""

    def __init__(self, made: Any, plan: Plan, token: str, within: float) -> None:
        self._waiting: queue.Queue[bytes | None] = queue.Queue()
        metadata = (("authorization", f"Bearer {token}"),)
        self.answers = made.stream_stream(plan.delta)(self._messages(), metadata=metadata, timeout=within)

    def send(self, message: bytes) -> None:
        """Send a message."""
        self._waiting.put(message)

    def end(self) -> None:
        """Say that there is nothing more."""
        self._waiting.put(None)

    def _messages(self) -> Iterator[bytes]:
        while (message := self._waiting.get()) is not None:
            yield message


def together(count: int, message: str) -> Case:
    """So many calls on one connection at once, each with this first message; all are answered."""

    def case(plan: Plan) -> None:
        first = plan.message(message)
        arrived = threading.Barrier(count)

        def one(number: int) -> bytes:
            call = Call(made, plan, plan.tokens[number % len(plan.tokens)], plan.within)
            try:
                arrived.wait(plan.within)
                call.send(first)
                return bytes(next(call.answers))
            finally:
                call.end()
                call.answers.cancel()

        with channel(plan) as made, ThreadPoolExecutor(count) as threads:
            answers = [threads.submit(one, number) for number in range(count)]
            lost = [error for answer in answers if (error := answer.exception()) is not None]
            assert not lost, f"answered {count - len(lost)} of {count}: {lost[0]!r}"

    return case


def deadline(plan: Plan) -> None:
    """A call with a deadline ends at it."""
    with channel(plan) as made:
        call = Call(made, plan, plan.tokens[0], 0.5)
        call.send(plan.message("first"))
        with contextlib.suppress(grpc.RpcError):
            for _ in call.answers:
                pass
        call.end()
        assert call.answers.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def half_close(plan: Plan) -> None:
    """A client that has nothing more to say is told that the call is over."""
    with channel(plan) as made:
        call = Call(made, plan, plan.tokens[0], plan.within)
        call.send(plan.message("first"))
        assert next(call.answers)
        call.end()
        assert list(call.answers) == []
        assert call.answers.code() is grpc.StatusCode.OK


def cancellation(plan: Plan) -> None:
    """Calls that are given up leave the connection as it was."""
    with channel(plan) as made:
        for number in range(50):
            call = Call(made, plan, plan.tokens[number % len(plan.tokens)], plan.within)
            call.send(plan.message("200kB"))
            if number % 2:
                next(call.answers)
            call.answers.cancel()
            call.end()
    together(1, "first")(plan)


CASES: dict[str, Case] = {
    "1 call": together(1, "first"),
    "8 calls, 200 kB each": together(8, "200kB"),
    "16 calls, 200 kB each": together(16, "200kB"),
    "32 calls, 200 kB each": together(32, "200kB"),
    "8 calls, 1 MB each": together(8, "1MB"),
    "deadline": deadline,
    "cancellation": cancellation,
    "half close": half_close,
}


def tried(plan: Plan, name: str, case: Case) -> Row:
    """One case, told."""
    try:
        case(plan)
    except (AssertionError, OSError, grpc.RpcError, StopIteration, threading.BrokenBarrierError) as error:
        return Row(name, passed=False, detail=f"{type(error).__name__} {error}"[:300].strip())
    return Row(name, passed=True)


if __name__ == "__main__":
    told = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    for title, run in CASES.items():
        if title not in told.omit:
            tell(tried(told, title, run))
