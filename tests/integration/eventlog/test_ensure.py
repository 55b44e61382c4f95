"""A stream that is there is left as it is: whoever may not change streams can still open each."""

from __future__ import annotations

import pytest

from shared.eventlog.jetstream.nats_client import Msg
from shared.streams.jetstream import JetStreamLogs
from tests.integration.eventlog.test_full import limit
from tests.integration.eventlog.test_outages import STREAMS
from tests.nats_server import NatsServer, connected

pytestmark = pytest.mark.nats


async def test_a_stream_that_an_operator_tuned_is_opened_without_a_change(
    server: NatsServer, logs: JetStreamLogs
) -> None:
    """Also the queue of signing requests, which takes no atomic batches: few services may change that stream."""
    changed: list[str] = []
    session = await logs._connection.session(within=5)  # pyright: ignore[reportPrivateUsage]

    async def tell(message: Msg) -> None:
        changed.append(message.subject)

    await session.client.subscribe("$JS.API.STREAM.UPDATE.>", cb=tell)
    for name in (STREAMS.csrs, STREAMS.events):
        await limit(await logs.open(name), max_msgs=1_000)
    assert len(changed) == 2
    async with connected(server) as others:
        for name in (STREAMS.csrs, STREAMS.events):
            assert (await others.open(name)).name == name
    await session.client.flush()
    assert len(changed) == 2
