"""Atomic replacement of files: whole or not at all, private, with nothing left behind."""

from __future__ import annotations

import os
import re
import stat
import threading
from pathlib import Path

import pytest

from shared.io.atomic_file import Sync, replacing, write_atomically

PROJECT = Path(__file__).parents[4]
NO_SPACE = OSError(28, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sync", ["none", "file", "folder"])
def test_the_new_content_replaces_the_old_for_its_owner_only(tmp_path: Path, sync: Sync) -> None:
    path = tmp_path / "state"
    for content in (b"old", b"new"):
        assert write_atomically(path, content, sync=sync)
        assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["state"]


def test_the_mode_is_the_one_asked_for_below_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "report", b"", mode=0o666)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "report").stat().st_mode) == 0o640


def test_the_mode_of_the_file_that_is_replaced_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_atomically(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_exists_is_kept_if_it_must_not_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert write_atomically(path, b"first", replace=False)
    assert not write_atomically(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["key"]


def test_of_writers_at_the_same_time_one_creates_the_file(tmp_path: Path) -> None:
    path, start, written = tmp_path / "key", threading.Barrier(8), list[bytes]()

    def write(content: bytes) -> None:
        start.wait()
        if write_atomically(path, content, replace=False):
            written.append(content)

    threads = [threading.Thread(target=write, args=(bytes([number]) * 1000,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes()] == written
    assert names(tmp_path) == ["key"]


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "state"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise NO_SPACE

    monkeypatch.setattr(failing, fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["state"]


def test_an_error_of_what_writes_leaves_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with replacing(tmp_path / "export") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert names(tmp_path) == []


def test_the_file_is_synced_before_it_has_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "state", list[tuple[bool, bool]]()

    def fsync(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))

    monkeypatch.setattr("os.fsync", fsync)
    content, name = (False, False), (True, True)
    wanted: dict[Sync, list[tuple[bool, bool]]] = {"none": [], "file": [content], "folder": [content, name]}
    for sync, expected in wanted.items():
        write_atomically(path, b"x", sync=sync)
        assert synced == expected
        synced.clear()
        path.unlink()


def test_leftovers_of_killed_processes_are_removed_and_writes_under_way_are_not(tmp_path: Path) -> None:
    old, other = tmp_path / f".meshlog-{'0' * 16}.new", tmp_path / ".meshlog-mine.new"
    for path in (old, other):
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
    with replacing(tmp_path / "first") as file:
        file.write(b"1")
        write_atomically(tmp_path / "second", b"2")
    assert names(tmp_path) == [other.name, "first", "second"]


def test_a_folder_that_is_missing_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "state", b"")


def test_no_module_replaces_files_by_itself() -> None:
    """A rename of a whole folder or of a symbolic link is another thing, and is named here."""
    renames = re.compile(
        r"os\.(replace|rename|link|fsync)\(|\b(draft|fresh|beside|partial|tmp|temporary)\.(replace|rename)\("
    )
    folders = {"cli/embedded/lifecycle.py", "deploy/devcluster/kubelet/pod/atomic_directory.py"}
    found = [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()}"
        for top in ("services", "shared", "cli", "deploy", "benchmarks")
        for path in sorted((PROJECT / top).rglob("*.py"))
        if path.relative_to(PROJECT).as_posix() not in folders | {"shared/io/atomic_file.py"}
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if renames.search(line)
    ]
    assert found == []
