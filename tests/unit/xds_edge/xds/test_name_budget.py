"""Names are counted in bytes: of each pod, and of all what is in no snapshot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

from services.xds_edge.limits.pod_usage import PodLimits, PodUsage
from services.xds_edge.xds.name_budget import MAX_NAME, NameLedgers, StreamNames
from services.xds_edge.xds.request_decode import decode_delta, decode_sotw
from services.xds_edge.xds.resource_set import NOTHING, ResourceSet
from services.xds_edge.xds.subscription import MAX_NAMES, TooManyNamesError, XdsRequest
from shared.records.snapshot import EDS


def account() -> PodUsage:
    return PodUsage(PodLimits(), 0.0)


class Stream:
    def __init__(self, ledgers: NameLedgers, pod: PodUsage) -> None:
        self.ended = False
        self.names = StreamNames(ledgers, pod, self._end)

    def _end(self) -> None:
        self.ended = True

    def subscribe(self, *names: str, whole: ResourceSet = NOTHING) -> None:
        self.names.book(EDS, frozenset(names), NOTHING, whole)


def test_what_is_in_the_snapshot_is_no_foreign_name() -> None:
    ledgers = NameLedgers()
    stream = Stream(ledgers, account())
    stream.subscribe("a", "b", whole=ResourceSet({"a": "1", "b": "2"}))
    assert ledgers.foreign.held == 0
    assert ledgers.all.held > 0
    stream.subscribe("a", "c", whole=ResourceSet({"a": "1", "b": "2"}))
    assert ledgers.foreign.held == 65
    stream.names.close()
    assert ledgers.foreign.held == ledgers.all.held == 0


def test_a_pod_that_names_too_much_loses_the_stream_that_did_however_many_it_has() -> None:
    ledgers = NameLedgers(foreign_each=10_000)
    pod = account()
    streams = [Stream(ledgers, pod) for _ in range(5)]
    for stream in streams:
        stream.subscribe("n" * 3000)
    assert [stream.ended for stream in streams] == [False, False, False, True, True]


def test_known_names_are_bounded_too() -> None:
    ledgers = NameLedgers(each=10_000)
    stream = Stream(ledgers, account())
    known = [f"{number}" + "n" * 100 for number in range(100)]
    stream.subscribe(*known, whole=ResourceSet(dict.fromkeys(known, "1")))
    assert stream.ended
    assert ledgers.all.held == ledgers.foreign.held == 0


def test_when_all_name_too_much_the_pod_that_names_most_goes() -> None:
    ledgers = NameLedgers(foreign_each=10_000, foreign=15_000)
    hostile, member = Stream(ledgers, account()), Stream(ledgers, account())
    hostile.subscribe("h" * 9000)
    member.subscribe("m" * 1000)
    another = Stream(ledgers, account())
    another.subscribe("a" * 5000)
    assert (hostile.ended, member.ended, another.ended) == (True, False, False)


def test_a_pod_pays_for_the_names_that_it_has_us_look_at() -> None:
    pod = account()
    stream = Stream(NameLedgers(), pod)
    full = pod.frames.left(0.0)
    stream.names.pay(XdsRequest(EDS, nonce="1"), 50_000)
    assert pod.frames.left(0.0) == full, "an acknowledgement names nothing"
    stream.names.pay(XdsRequest(EDS, subscribe=("a",)), 50_000)
    assert pod.frames.left(0.0) < full - 1000


LONG = "n" * (MAX_NAME + 1)
TOO_MANY = [str(number) for number in range(MAX_NAMES + 1)]


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        (decode_delta, DeltaDiscoveryRequest(resource_names_subscribe=[LONG])),
        (decode_delta, DeltaDiscoveryRequest(resource_names_unsubscribe=["a", LONG])),
        (decode_delta, DeltaDiscoveryRequest(initial_resource_versions={LONG: "1"})),
        (decode_sotw, DiscoveryRequest(resource_names=[LONG])),
        (decode_delta, DeltaDiscoveryRequest(resource_names_subscribe=TOO_MANY)),
        (decode_delta, DeltaDiscoveryRequest(resource_names_unsubscribe=TOO_MANY)),
        (decode_delta, DeltaDiscoveryRequest(initial_resource_versions=dict.fromkeys(TOO_MANY, "1"))),
        (decode_sotw, DiscoveryRequest(resource_names=TOO_MANY)),
    ],
)
def test_a_request_that_names_too_much_is_refused(
    decode: Callable[[bytes], object], message: DeltaDiscoveryRequest | DiscoveryRequest
) -> None:
    with pytest.raises(TooManyNamesError):
        decode(message.SerializeToString())


def test_versions_that_cannot_be_ours_are_kept_as_that() -> None:
    message = DeltaDiscoveryRequest(initial_resource_versions={"a": "v" * 1_000_000, "b": "0123456789abcdef"})
    request, _ = decode_delta(message.SerializeToString())
    assert request.initial_versions["b"] == "0123456789abcdef"
    assert 0 < len(request.initial_versions["a"]) < 10
    world, _ = decode_sotw(DiscoveryRequest(version_info="v" * 1_000_000).SerializeToString())
    assert world.version == ""
