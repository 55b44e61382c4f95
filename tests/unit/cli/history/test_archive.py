"""An exported file: read from the middle, checked to the byte, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.history.archive import BrokenArchiveError
from cli.history.archive_stream import Archive
from shared.eventlog.protocol import Record
from tests.property.history.worlds import STREAMS, exported, recorded
from tests.unit.compiler import objects


async def archive_of(path: Path, *, every: int = 5) -> tuple[Archive, list[Record]]:
    source = await recorded([[event] for event in objects.bookstore()], keyframe_every=3)
    records = [record async for record in source.events.read()]
    return await exported(source, path, state_every=every), records


async def test_a_file_reads_as_the_log_did(tmp_path: Path) -> None:
    archive, records = await archive_of(tmp_path / "log")
    log = archive.stream("events")
    assert [bare(record) async for record in log.read()] == [bare(record) for record in records]
    assert await log.bounds() == (1, len(records))
    middle = records[len(records) // 2]
    found = await log.at(middle.sequence)
    assert found is not None
    assert bare(found) == bare(middle)
    assert await log.at(len(records) + 1) is None
    last = await log.last(middle.subject)
    assert last is not None
    assert last.subject == middle.subject
    kind = f"{STREAMS.prefix}.events.cluster.Service.>"
    assert {record.subject.split(".")[3] for record in await log.last_per_subject(kind)} == {"Service"}
    assert archive.check() >= len(records)
    archive.close()


async def test_a_state_in_the_file_is_that_of_the_events_before_it(tmp_path: Path) -> None:
    archive, records = await archive_of(tmp_path / "log")
    reached, state = archive.state(until=7)
    assert reached == 5
    newest = {record.subject: record.sequence for record in records[:5]}
    assert {record.subject: record.sequence for record in state} == newest
    archive.close()


async def test_a_byte_that_was_changed_is_noticed(tmp_path: Path) -> None:
    archive, _ = await archive_of(tmp_path / "log")
    block = archive.contents.streams["events"][0]
    archive.close()
    content = bytearray((tmp_path / "log").read_bytes())
    content[block.offset + block.length // 2] ^= 1
    (tmp_path / "log").write_bytes(content)
    changed = Archive(tmp_path / "log")
    with pytest.raises(BrokenArchiveError, match="was changed"):
        changed.check()
    changed.close()


@pytest.mark.parametrize("kept", [0, 5, 40, -1, -60])
async def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    archive, _ = await archive_of(tmp_path / "log")
    archive.close()
    (tmp_path / "log").write_bytes((tmp_path / "log").read_bytes()[:kept])
    with pytest.raises(BrokenArchiveError):
        Archive(tmp_path / "log")


def bare(record: Record) -> tuple[str, int, bytes, dict[str, str], int]:
    return record.subject, record.sequence, record.payload, dict(record.headers), record.time
