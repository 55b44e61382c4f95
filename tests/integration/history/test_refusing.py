"""What a real Envoy says of a planned configuration: nothing against ours, and its own words against a bad one."""

from __future__ import annotations

import msgspec
import pytest
from envoy.config.listener.v3.listener_pb2 import Listener

from cli.plan.envoy_validation import find_envoy, refusal
from services.compiler.core.offline import compile_events
from shared.records.snapshot import LDS
from tests.unit.compiler import objects

pytestmark = pytest.mark.envoy


def test_envoy_accepts_what_we_render_and_refuses_two_chains_for_one_address() -> None:
    envoy = find_envoy()
    assert envoy is not None
    snapshot = compile_events(objects.bookstore())
    workload_class = next(name for name in snapshot.views if name.startswith("buy/buyer"))
    assert refusal(envoy, snapshot, workload_class) == ""
    identity = next((LDS, name, digest) for name, digest in snapshot.views[workload_class][LDS].items())
    listener = Listener.FromString(snapshot.resources[identity].body)
    listener.filter_chains.append(listener.filter_chains[0])
    broken = msgspec.structs.replace(snapshot.resources[identity], body=listener.SerializeToString())
    snapshot.resources[identity] = broken
    assert "filter chain" in refusal(envoy, snapshot, workload_class)
