"""The last good state survives a restart, and nothing that is not it is taken for it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from services.xds_edge.snapshot import disk_cache
from services.xds_edge.snapshot.disk_cache import LastGood
from shared.eventlog.protocol import Checkpoint
from shared.projected_objects import TokenIssuer
from shared.records.certificate_records import TrustBundle
from shared.records.snapshot import CDS, FORMAT, Commit, Resource, ViewChange

STATE = LastGood(
    format=disk_cache.FORMAT,
    checkpoint=Checkpoint(epoch="e", sequence=7, chain="c" * 32),
    keyframe=Commit(
        format=FORMAT,
        version=7,
        parent=0,
        epoch="e",
        build="b",
        resources=[Resource(CDS, "c", "h", b"\x00\xff")],
        views={"web": ViewChange({CDS: {"c": "h"}})},
    ),
    issuers={"c": TokenIssuer(issuer="https://i", jwks={"keys": []})},
    bundle=TrustBundle(trust_domain="cluster.local", serial=1, roots=["r"], sealing_keys=[]),
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    disk_cache.write(tmp_path / "state", disk_cache.encode(STATE))
    assert disk_cache.read(tmp_path / "state") == STATE


def test_a_first_start_has_none(tmp_path: Path) -> None:
    assert disk_cache.read(tmp_path) is None


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    disk_cache.write(tmp_path / "state", disk_cache.encode(STATE))
    assert stat.S_IMODE((tmp_path / "state" / "last-good").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


@pytest.mark.parametrize("cut", [0, 1, 10, 40, 60, -1])
def test_a_torn_file_is_as_good_as_none(tmp_path: Path, cut: int) -> None:
    disk_cache.write(tmp_path, disk_cache.encode(STATE)[:cut])
    assert disk_cache.read(tmp_path) is None


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    content = bytearray(disk_cache.encode(STATE))
    content[-5] ^= 1
    disk_cache.write(tmp_path, bytes(content))
    assert disk_cache.read(tmp_path) is None


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk_cache.write(tmp_path, disk_cache.encode(STATE))

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        disk_cache.write(tmp_path, b"new")
    assert disk_cache.read(tmp_path) == STATE
    assert [file.name for file in tmp_path.iterdir()] == ["last-good"]
