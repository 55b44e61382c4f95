"""What one pod may take: streams, new streams; and nothing of it is another pod's."""

from __future__ import annotations

import pytest

from services.xds_edge.errors import Code, StreamRefusedError
from services.xds_edge.limits import pod_usage as accounts_
from services.xds_edge.limits.pod_usage import PodLimits, PodUsages


class Stream:
    def __init__(self) -> None:
        self.ended = False

    def evict(self) -> None:
        self.ended = True


def test_a_pod_with_too_many_streams_loses_its_oldest() -> None:
    accounts = PodUsages(PodLimits(streams=3))
    pod, other = accounts.of("pod", 0.0), accounts.of("other", 0.0)
    mine = Stream()
    accounts.join(other, mine)
    streams = [Stream() for _ in range(5)]
    for stream in streams:
        accounts.join(pod, stream)
    assert [stream.ended for stream in streams] == [True, True, False, False, False]
    assert not mine.ended


def test_when_there_are_too_many_streams_the_pod_with_most_loses_its_oldest() -> None:
    accounts = PodUsages(PodLimits(all_streams=10))
    greedy = accounts.of("greedy", 0.0)
    streams = [Stream() for _ in range(10)]
    for stream in streams:
        accounts.join(greedy, stream)
    mine = Stream()
    accounts.join(accounts.of("member", 0.0), mine)
    assert streams[0].ended
    assert not mine.ended
    with pytest.raises(StreamRefusedError) as refused:
        accounts.join(greedy, Stream())
    assert refused.value.status == Code.UNAVAILABLE


def test_a_pod_that_is_full_of_single_streams_takes_no_more() -> None:
    accounts = PodUsages(PodLimits(all_streams=3))
    for number in range(3):
        accounts.join(accounts.of(f"pod-{number}", 0.0), Stream())
    with pytest.raises(StreamRefusedError):
        accounts.join(accounts.of("late", 0.0), Stream())


def test_streams_that_ended_make_room_whoever_ended_them() -> None:
    accounts = PodUsages(PodLimits(streams=2, all_streams=4))
    pod = accounts.of("pod", 0.0)
    for _ in range(100):
        stream = Stream()
        accounts.join(pod, stream)
        if not stream.ended:
            accounts.leave(pod, stream)
        accounts.leave(pod, stream)
    fresh = [Stream(), Stream()]
    for stream in fresh:
        accounts.join(pod, stream)
    assert not any(stream.ended for stream in fresh)


def test_a_pod_opens_streams_at_its_own_pace() -> None:
    accounts = PodUsages(PodLimits(new_streams=2, new_streams_burst=3))
    pod = accounts.of("pod", 0.0)
    assert [pod.opens(0.0) for _ in range(4)] == [True, True, True, False]
    assert accounts.of("other", 0.0).opens(0.0)
    assert [pod.opens(1.0) for _ in range(3)] == [True, True, False]


def test_a_pod_that_leaves_and_comes_back_has_no_new_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts_, "_FORGET_ABOVE", 8)
    accounts = PodUsages(PodLimits(new_streams=1, new_streams_burst=2))
    for _ in range(2):
        accounts.of("hasty", 0.0).opens(0.0)
    for number in range(30):
        accounts.of(f"pod-{number}", 0.0)
    assert not accounts.of("hasty", 0.0).opens(0.0)
    assert len(accounts) <= 32
    for number in range(100):
        accounts.of(f"later-{number}", 1000.0)
    assert len(accounts) <= 40, "those that are idle are forgotten"
