"""RFC 9113 as h2spec checks it, against the edge's own server over TLS."""

from __future__ import annotations

from pathlib import Path

from tests.clients import h2spec
from tests.integration.xds_edge.world import world
from tests.programs import TOOLS, needs_built


@needs_built("h2spec")
async def test_every_case_of_h2spec_passes(tmp_path: Path) -> None:
    with h2spec.answering():
        async with world(tmp_path) as mesh:
            edge = await mesh.edge()
            verdict = await h2spec.run(str(TOOLS / "h2spec"), edge.server.port)
    assert verdict.failed == ()
    assert verdict.skipped == ()
    assert verdict.passed == h2spec.CASES
