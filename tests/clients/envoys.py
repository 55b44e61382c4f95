"""Real Envoys as a client: the tests of `test_real_envoy.py`, run against edges with either server, one row each."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.clients.plan import Row

CLIENT = "Envoy"
_TESTS = "tests/integration/xds_edge/test_real_envoy.py"
_WITHIN = 180.0


async def run(server: str, directory: Path) -> list[Row]:
    """Run them; `server`: `grpcio`, or anything else for the own one."""
    report = directory / "envoys.xml"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", _TESTS, f"--junitxml={report}",
        env={**os.environ, "EDGE_SERVER": server},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await asyncio.wait_for(process.wait(), _WITHIN)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    cases = ET.fromstring(report.read_text(encoding="utf-8")).iter("testcase")  # noqa: S314 (written by pytest)
    return [_row(case) for case in cases]


def _row(case: ET.Element) -> Row:
    wrong = case.find("failure")
    wrong = case.find("error") if wrong is None else wrong
    name = str(case.get("name", "")).removeprefix("test_").replace("_", " ")
    return Row(
        name, passed=wrong is None, detail="" if wrong is None else str(wrong.get("message"))[:300], client=CLIENT
    )
