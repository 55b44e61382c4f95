"""`python -m benchmarks`: what is asked for is run, printed and written."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from benchmarks.__main__ import main
from benchmarks.table import Result, Row


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Benchmarks that take no time; their names as they run."""
    ran: list[str] = []

    def run(name: str) -> Result:
        ran.append(name)
        return Result(name=name, command="this", rows=[Row(what="one", figure=1, unit="s")])

    for name in ("idle", "ca"):
        monkeypatch.setitem(sys.modules, f"benchmarks.{name}", SimpleNamespace(run=lambda name=name: run(name)))
    return ran


@pytest.mark.parametrize(("names", "written"), [(["ca"], "ca"), (["idle", "ca", "full"], ["idle", "ca"])])
def test_one_is_written_as_its_object_and_many_together(
    names: list[str], written: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JSON", str(tmp_path / "out"))
    assert main(names) == 0
    held = msgspec.json.decode((tmp_path / "out").read_bytes())
    assert ([one["name"] for one in held["results"]] if "results" in held else held["name"]) == written


def test_a_name_that_there_is_not_is_said_before_anything_runs(
    measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["idle", "idel"]) == 2
    assert "there is no 'idel'; one of idle, edge" in capsys.readouterr().err
    assert measured == []
