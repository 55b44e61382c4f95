"""What a container's `securityContext` leaves it."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.devcluster.kubelet.container.security_context import confinement_of
from deploy.devcluster.runtime import DEFAULT_CAPABILITIES


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (None, DEFAULT_CAPABILITIES),
        ({}, DEFAULT_CAPABILITIES),
        ({"capabilities": {"drop": None, "add": None}}, DEFAULT_CAPABILITIES),
        ({"capabilities": {"drop": ["ALL"]}}, set[str]()),
        ({"capabilities": {"drop": ["all"], "add": ["CAP_NET_ADMIN", "net_raw"]}}, {"NET_ADMIN", "NET_RAW"}),
        ({"capabilities": {"drop": ["CHOWN"], "add": ["SYS_TIME"]}}, DEFAULT_CAPABILITIES - {"CHOWN"} | {"SYS_TIME"}),
        ({"privileged": True, "capabilities": {"drop": ["ALL"]}}, {"ALL"}),
        ({"privileged": False, "capabilities": {"add": ["ALL"]}}, DEFAULT_CAPABILITIES | {"ALL"}),
    ],
)
def test_capabilities_are_the_runtimes_without_what_is_dropped_and_with_what_is_added(
    context: Any, expected: set[str]
) -> None:
    assert confinement_of({"name": "a", "securityContext": context}).capabilities == expected


@pytest.mark.parametrize("wanted", [True, False, None])
def test_the_root_is_read_only_if_so_asked(*, wanted: bool | None) -> None:
    context = {"readOnlyRootFilesystem": wanted, "privileged": True}
    assert confinement_of({"securityContext": context}).read_only_root == bool(wanted)
