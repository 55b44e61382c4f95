"""What the reflector asks next, for every way in which a server can answer (faults 1 to 5, 12, 15)."""

from __future__ import annotations

from services.ingestor.core.observations import (
    KindAbsent,
    KindListed,
    NamespacedName,
    ObjectDeleted,
    ObjectUpdated,
    Projected,
)
from services.ingestor.core.reflector import (
    Bookmark,
    Failure,
    FetchPage,
    ListPage,
    OpenWatch,
    Reflector,
    ReflectorLimits,
    SkippedLine,
    Step,
    StreamList,
    Wait,
)
from shared.timing.backoff import Backoff
from tests.unit.ingestor.objects import projected

LIMITS = ReflectorLimits(retry=Backoff(1.0, 8.0, jitter=(0.5, 1.5)))


def reflector() -> Reflector:
    """Of a server that lists in pages."""
    return Reflector("Pod", jitter=lambda: 0.5, limits=LIMITS, streams=False)


def page(resource_version: str, objects: tuple[Projected, ...], continue_token: str = "") -> ListPage:
    return ListPage(KindListed(kind="Pod", resource_version=resource_version, objects=objects), continue_token)


def watching(rv: str = "10") -> Reflector:
    machine = reflector()
    machine.begin()
    machine.page(page(resource_version=rv, objects=()))
    machine.opened(0.0)
    return machine


def test_pages_become_one_list_and_the_watch_starts_at_its_version() -> None:
    machine = reflector()
    assert machine.begin().action == FetchPage()
    first = machine.page(page(resource_version="10", objects=(projected("a"),), continue_token="t"))
    assert first.action == FetchPage("t")
    assert not first.observations
    last = machine.page(page(resource_version="10", objects=(projected("b"),)))
    assert last.action == OpenWatch("10")
    (listed,) = last.observations
    assert isinstance(listed, KindListed)
    assert [item.name.name for item in listed.objects] == ["a", "b"]


def test_a_partial_list_is_thrown_away_and_begun_again() -> None:
    machine = reflector()
    machine.begin()
    machine.page(page(resource_version="10", objects=(projected("a"),), continue_token="t"))
    failed = machine.failed(Failure("http 410", status=410), now=0.0)
    assert failed.action == Wait(1.0, FetchPage(), "http 410")
    assert not failed.observations
    (listed,) = machine.page(page(resource_version="12", objects=())).observations
    assert isinstance(listed, KindListed)
    assert listed.objects == ()


def test_after_the_servers_timeout_the_watch_resumes_from_the_last_line_without_a_list() -> None:
    machine = watching()
    assert machine.line(ObjectUpdated(projected(rv=11))) == (ObjectUpdated(projected(rv=11)),)
    assert machine.closed(300.0).action == OpenWatch("11")
    machine.opened(300.0)
    machine.line(Bookmark("15"))
    assert machine.closed(600.0).action == OpenWatch("15")
    assert machine.counts.lists == 1


def test_a_deletion_is_told_and_moves_the_version() -> None:
    machine = watching()
    fact = ObjectDeleted(kind="Pod", name=NamespacedName("shop", "web-1"), uid="u", resource_version="13")
    assert machine.line(fact) == (fact,)
    assert machine.closed(300.0).action == OpenWatch("13")


def test_410_lists_again_and_repeated_410_backs_off() -> None:
    machine = watching()
    waits: list[float] = []
    for _ in range(5):
        step = machine.failed(Failure("http 410", status=410), now=1.0)
        assert isinstance(step.action, Wait)
        assert step.action.then == FetchPage()
        waits.append(step.action.seconds)
        machine.page(page(resource_version="20", objects=()))
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0]
    assert machine.counts.gone == 5


def test_retry_after_is_honoured_but_not_for_ever() -> None:
    step = watching().failed(Failure("http 429", status=429, retry_after=30.0), now=1.0)
    assert step.action == Wait(30.0, OpenWatch("10"), "http 429")
    step = watching().failed(Failure("http 429", status=429, retry_after=1e9), now=1.0)
    assert isinstance(step.action, Wait)
    assert step.action.seconds == LIMITS.retry_after_cap


def test_a_server_that_hangs_up_at_once_is_not_hammered() -> None:
    machine = watching()
    waits: list[float] = []
    for _ in range(3):
        machine.opened(0.0)
        step = machine.closed(0.1)
        assert isinstance(step.action, Wait)
        waits.append(step.action.seconds)
    assert waits == [1.0, 2.0, 4.0]


def test_a_watch_that_lived_starts_the_back_off_anew() -> None:
    machine = watching()
    for _ in range(4):
        machine.failed(Failure("connection"), now=0.1)
    machine.opened(10.0)
    machine.line(Bookmark("11"))
    step = machine.failed(Failure("connection"), now=11.0)
    assert step.action == Wait(1.0, OpenWatch("11"), "connection")


def test_a_watch_that_is_accepted_again_is_well_before_anything_happens() -> None:
    """The first line may be a bookmark, a minute later: an ingestor that works is not to be unready for so long."""
    machine = watching()
    machine.failed(Failure("connection"), now=1.0)
    assert machine.failing == "connection"
    machine.opened(2.0)
    assert not machine.failing
    streaming = Reflector("Pod", jitter=lambda: 0.5, limits=LIMITS)
    streaming.begin()
    streaming.failed(Failure("connection"), now=1.0)
    streaming.streamed(2.0)
    assert streaming.failing, "what the list holds is not known before its end"


def test_a_watch_path_that_is_gone_leads_to_a_list_not_to_a_loop() -> None:
    step = watching().failed(Failure("http 404", status=404), now=1.0)
    assert step.action == Wait(1.0, FetchPage(), "http 404")


def test_lines_of_unknown_types_and_bookmarks_without_version_are_skipped_and_counted() -> None:
    machine = watching()
    assert machine.line(SkippedLine("unknown type 'FUTURE'")) == ()
    assert machine.line(Bookmark("")) == ()
    assert machine.counts.skipped == 1
    assert machine.closed(300.0).action == OpenWatch("10")


def test_a_missing_kind_deletes_nothing_until_discovery_has_said_so_for_a_minute() -> None:
    machine = watching()
    now, told = 0.0, []
    for _ in range(12):
        step = machine.absent(now)
        assert isinstance(step.action, Wait)
        assert step.action.then == FetchPage()
        told += [(now, fact) for fact in step.observations if isinstance(fact, KindListed)]
        assert step.observations[0] == KindAbsent("Pod") or told
        now += step.action.seconds
    assert len(told) == 1
    assert told[0][0] >= LIMITS.absent_confirmed


def test_a_kind_that_appears_is_listed_as_any_other() -> None:
    machine = reflector()
    machine.begin()
    machine.absent(0.0)
    step = machine.page(page(resource_version="30", objects=(projected("a"),)))
    assert step.action == OpenWatch("30")


def test_a_doubt_lists_again_and_says_that_it_confirms() -> None:
    machine = watching()
    step = machine.relist(confirming=True)
    assert isinstance(step.action, Wait)
    assert step.action.then == FetchPage()
    (listed,) = machine.page(page(resource_version="10", objects=())).observations
    assert isinstance(listed, KindListed)
    assert listed.confirming
    (later,) = machine.page(page(resource_version="11", objects=())).observations
    assert isinstance(later, KindListed)
    assert not later.confirming


def streaming() -> Reflector:
    """Of a server that streams its list, which has begun."""
    machine = Reflector("Pod", jitter=lambda: 0.5, limits=LIMITS)
    assert machine.begin().action == StreamList()
    machine.streamed(0.0)
    return machine


def test_a_streaming_list_is_one_list_and_its_watch_goes_on() -> None:
    machine = streaming()
    for line in (
        ObjectUpdated(projected("a")),
        ObjectUpdated(projected("b")),
        ObjectUpdated(projected("c", ip="10.0.0.9")),
    ):
        assert machine.line(line) == ()
    gone = projected("b")
    assert machine.line(ObjectDeleted(kind="Pod", name=gone.name, uid=gone.uid, resource_version="11")) == ()
    assert machine.line(Bookmark("12")) == (), "a bookmark that does not say so is not the end"
    assert not machine.synced
    (listed,) = machine.line(Bookmark("13", ends_list=True))
    assert isinstance(listed, KindListed)
    assert (listed.resource_version, [item.name.name for item in listed.objects]) == ("13", ["a", "c"])
    assert machine.synced
    (observed,) = machine.line(ObjectUpdated(projected("d")))
    assert isinstance(observed, ObjectUpdated)
    assert (machine.counts.lists, machine.counts.streamed) == (1, 1)


def test_a_server_without_streaming_lists_is_asked_for_pages_at_once_and_ever_after() -> None:
    machine = Reflector("Pod", jitter=lambda: 0.5, limits=LIMITS)
    machine.begin()
    assert machine.stream_refused(Failure("http 422", status=422), 0.0) == Step(action=FetchPage())
    assert machine.counts.failures == 0
    machine.page(page(resource_version="10", objects=()))
    machine.opened(0.0)
    step = machine.failed(Failure("http 410", status=410), 1.0)
    assert isinstance(step.action, Wait)
    assert step.action.then == FetchPage()


def test_a_streaming_list_that_breaks_off_says_nothing_and_is_followed_by_pages_once() -> None:
    machine = streaming()
    machine.line(ObjectUpdated(projected("a")))
    step = machine.closed(1.0)
    assert step.observations == ()
    assert isinstance(step.action, Wait)
    assert step.action.then == FetchPage()
    machine.page(page(resource_version="10", objects=()))
    machine.opened(2.0)
    step = machine.failed(Failure("error line 410", status=410), 3.0)
    assert isinstance(step.action, Wait)
    assert step.action.then == StreamList(), "it is tried again next time"


def test_what_cannot_be_read_in_a_streaming_list_is_not_taken_for_gone() -> None:
    machine = streaming()
    machine.line(ObjectUpdated(projected("a")))
    machine.line(SkippedLine("unreadable object", unreadable=NamespacedName("shop", "a")))
    (listed,) = machine.line(Bookmark("13", ends_list=True))
    assert isinstance(listed, KindListed)
    assert (listed.objects, listed.unreadable, listed.complete) == ((), {NamespacedName("shop", "a")}, True)
    machine = streaming()
    machine.line(SkippedLine("unreadable object", nameless=True))
    (listed,) = machine.line(Bookmark("13", ends_list=True))
    assert isinstance(listed, KindListed)
    assert not listed.complete


def test_a_doubtful_list_is_confirmed_by_pages() -> None:
    machine = streaming()
    step = machine.relist(confirming=True)
    assert isinstance(step.action, Wait)
    assert step.action.then == FetchPage()
