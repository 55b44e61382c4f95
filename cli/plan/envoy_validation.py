"""Validates the static configuration of a class with a real Envoy (`envoy --mode validate`)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.json_format import MessageToJson

from cli.offline.static_bootstrap import bootstrap, stand_in
from shared.records.snapshot import Snapshot


def find_envoy() -> str | None:
    """Return the path of the Envoy beside this interpreter, or on `PATH`, or None if there is none."""
    return shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")


def refusal(envoy: str, snapshot: Snapshot, workload_class: str) -> str:
    """Return Envoy's error for the configuration of a class; empty if Envoy accepts it."""
    static = bootstrap(snapshot, workload_class, stand_in(snapshot.trust_domain))
    with tempfile.TemporaryDirectory(prefix="meshlog-plan-") as folder:
        path = Path(folder) / "envoy.json"
        path.write_text(MessageToJson(static, preserving_proto_field_name=True))
        done = subprocess.run(  # noqa: S603 (the Envoy of this installation, and a file that we wrote)
            [envoy, "--mode", "validate", "-c", str(path), "-l", "error", "--use-dynamic-base-id"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip()[-500:]
