"""How many sidecars of one user a kernel's limit lets run, and whether one more would find room."""

from __future__ import annotations

import ctypes
import errno
from pathlib import Path

import pytest

from shared.service import inotify


def test_a_small_limit_is_told_with_what_it_means_and_a_large_one_is_not() -> None:
    told = inotify.advice(128)
    assert told.startswith("fs.inotify.max_user_instances is 128: 32 sidecars of one user at most; raise it with")
    assert inotify.advice(8192) == ""


def test_the_limit_is_the_kernels() -> None:
    assert inotify.limit() == int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())


def test_what_is_tried_is_given_back() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert all(inotify.room() for _ in range(50))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(("number", "free"), [(errno.EMFILE, False), (errno.ENOSYS, True)])
def test_there_is_no_room_if_the_kernel_gives_no_instance(
    number: int, *, free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the limit counts; whatever else is wrong is not its business."""

    class Kernel:
        def inotify_init1(self, flags: int) -> int:
            ctypes.set_errno(number)
            return -1 if flags else 0

    def library(_name: None, *, use_errno: bool) -> Kernel:
        assert use_errno
        return Kernel()

    monkeypatch.setattr(ctypes, "CDLL", library)
    assert inotify.room() is free
