"""The limit of connections in the bootstrap of a sidecar comes from the MeshConfig."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.compiler.envoy_names import INBOUND_LISTENER
from services.injector.core.sidecar_containers import proxy
from shared.errors import BadInputError
from shared.meshconfig.pods import read_mesh_spec
from tests.unit.injector.pods import INSTALLATION


def limits(sidecar: dict[str, Any]) -> dict[str, Any]:
    """The runtime values in the bootstrap of a pod's sidecar."""
    arguments = proxy(INSTALLATION, read_mesh_spec({"sidecar": sidecar}), ())["args"]
    config = json.loads(arguments[1].replace("$$", "$"))
    (layer,) = config["layered_runtime"]["layers"]
    return layer["static_layer"]


def test_a_sidecar_has_a_limit_of_connections_for_the_listener_that_strangers_reach_only() -> None:
    key = f"envoy.resource_limits.listener.{INBOUND_LISTENER}.connection_limit"
    assert limits({}) == {key: 10_000}
    assert limits({"maxInboundConnections": 500}) == {key: 500}


@pytest.mark.parametrize("value", [0, -1, 2_000_000, "many"])
def test_a_limit_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(BadInputError):
        read_mesh_spec({"sidecar": {"maxInboundConnections": value}})
