"""How a version is named, and what an unknown name is answered with."""

from __future__ import annotations

import pytest

from cli.history.timeline import Timeline
from cli.history.versions import parse_moment, resolve
from shared.errors import BadInputError
from tests.property.history.worlds import recorded
from tests.unit.compiler import objects


async def timeline() -> tuple[Timeline, list[int]]:
    found = Timeline(await recorded([[event] for event in objects.bookstore()], keyframe_every=3))
    return found, [one.commit.version async for one in found.commits()]


async def test_head_and_what_was_before_it() -> None:
    line, versions = await timeline()
    assert await resolve(line, "HEAD") == versions[-1]
    assert [await resolve(line, f"HEAD~{steps}") for steps in range(len(versions))] == versions[::-1]
    with pytest.raises(BadInputError, match="fewer than"):
        await resolve(line, f"HEAD~{len(versions)}")


async def test_a_sequence_between_two_versions_means_the_one_in_force() -> None:
    line, versions = await timeline()
    for sequence in range(versions[0], versions[-1] + 1):
        assert await resolve(line, str(sequence)) == max(version for version in versions if version <= sequence)
    with pytest.raises(BadInputError, match="newest version is"):
        await resolve(line, str(versions[-1] + 1))


async def test_a_time_means_the_version_in_force_then() -> None:
    line, versions = await timeline()
    assert await resolve(line, "@-0s") == versions[-1]
    with pytest.raises(BadInputError, match="nothing was published yet"):
        await resolve(line, "@2001-01-01")


@pytest.mark.parametrize("text", ["", "head", "HEAD~", "HEAD~x", "-3", "1.5", "@yesterday", "@-1 week", "@"])
async def test_nonsense_is_refused_with_a_sentence(text: str) -> None:
    line, _ = await timeline()
    with pytest.raises(BadInputError):
        await resolve(line, text)


def test_times_are_utc_unless_they_say_otherwise() -> None:
    assert parse_moment("1970-01-01T00:00:01") == 10**9
    assert parse_moment("1970-01-01T01:00:01+01:00") == 10**9
    assert parse_moment("-10m", now=lambda: 600 * 10**9) == 0
