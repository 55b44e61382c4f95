"""Advice on a move from Open Service Mesh: above all where the same object would let other calls through."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from cli.migrate.advice import Advice, advise

MEMBER = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {openservicemesh.io/monitored-by: osm}}
"""


def of(text: str, *, member: bool = True) -> list[Advice]:
    objects: list[Any] = [*yaml.safe_load_all(text), *([yaml.safe_load(MEMBER)] if member else [])]
    return [one for one in advise(objects, "meshlog") if not one.object.startswith("Namespace")]


TARGET = """
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {name: buy, namespace: shop}
spec:
  destination: {kind: ServiceAccount, name: store, namespace: %s}
  sources: [{kind: ServiceAccount, name: buyer, namespace: home}]
  rules: [{kind: HTTPRouteGroup, name: routes%s}]
"""


def test_a_rule_without_matches_would_open_more_and_is_said_to() -> None:
    (said,) = of(TARGET % ("shop", ""))
    assert said.verdict == "differs"
    assert "here it means every match" in said.finding
    assert "before the move" in said.action


def test_a_rule_with_matches_carries_over() -> None:
    (said,) = of(TARGET % ("shop", ", matches: [buy]"))
    assert (said.verdict, said.finding) == ("carries over", "allows the same calls")


@pytest.mark.parametrize("member", [True, False])
def test_a_target_without_effect_stays_without_effect(*, member: bool) -> None:
    (said,) = of(TARGET % ("elsewhere" if member else "shop", ""), member=member)
    assert said.verdict == "carries over"
    assert "no effect" in said.finding


def test_the_mesh_config_is_answered_field_by_field() -> None:
    said = of(
        """
apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshConfig
metadata: {name: osm-mesh-config, namespace: osm-system}
spec:
  traffic: {enableEgress: true, enablePermissiveTrafficPolicyMode: true}
  sidecar: {configResyncInterval: 30s, logLevel: debug}
"""
    )
    assert [(one.verdict, one.finding.partition(" ")[0]) for one in said] == [
        ("not yet", "traffic.enableEgress"),
        ("carries over", "sidecar.configResyncInterval"),
    ]


@pytest.mark.parametrize("kind", ["Egress", "IngressBackend", "Retry", "UpstreamTrafficSetting", "Telemetry"])
def test_a_policy_that_is_not_in_force_is_named(kind: str) -> None:
    (said,) = of(
        f"{{apiVersion: policy.openservicemesh.io/v1alpha1, kind: {kind}, metadata: {{name: x, namespace: shop}}}}"
    )
    assert (said.object, said.verdict) == (f"{kind} shop/x", "not yet")


def test_pods_with_a_sidecar_are_to_be_restarted_and_users_of_the_proxy_renamed() -> None:
    said = of(
        """
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {osm-proxy-uuid: abc}}
spec: {containers: [{name: web, securityContext: {runAsUser: 1500}}, {name: envoy, securityContext: {runAsUser: 1500}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: win, namespace: shop}
spec: {nodeSelector: {kubernetes.io/os: windows}, containers: [{name: web}]}
---
apiVersion: v1
kind: Pod
metadata: {name: outside, namespace: default}
spec: {containers: [{name: web, securityContext: {runAsUser: 1500}}]}
"""
    )
    assert [(one.object, one.verdict) for one in said] == [
        ("Pod shop/web", "to do"),
        ("Pod shop/web", "to do"),
        ("Pod shop/win", "not yet"),
    ]


def test_members_and_the_old_control_plane_are_on_the_list_of_things_to_do() -> None:
    objects: list[Any] = [
        yaml.safe_load(MEMBER),
        {
            "kind": "Deployment",
            "metadata": {"name": "osm-controller", "namespace": "osm-system"},
            "spec": {"template": {"spec": {"containers": [{"image": "openservicemesh/osm-controller:v1.2.4"}]}}},
        },
        {"kind": "MutatingWebhookConfiguration", "metadata": {"name": "osm-webhook-osm"}},
        {"kind": "ConfigMap", "metadata": {"name": "x", "namespace": "shop"}},
    ]
    said = advise(objects, "meshlog")
    assert {one.verdict for one in said} == {"to do"}
    assert len(said) == 3
    assert "v1.2.4" in said[0].finding
    assert not [one for one in advise(objects, "osm") if one.object == "Namespace shop"], "it has moved already"


@pytest.mark.parametrize(
    ("path", "verdict"),
    [("/books", "differs"), ("/books$", "carries over"), ("/books.*", "carries over"), ("", "carries over")],
)
def test_a_path_that_would_match_more_here_is_named(path: str, verdict: str) -> None:
    """Open Service Mesh matches the whole path, SMI and Meshlog its beginning."""
    (said,) = of(
        f"""
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {{name: routes, namespace: shop}}
spec: {{matches: [{{name: buy, pathRegex: "{path}", methods: [GET]}}]}}
"""
    )
    assert said.verdict == verdict
    assert ("more paths would be allowed" in said.finding) == (verdict == "differs")
