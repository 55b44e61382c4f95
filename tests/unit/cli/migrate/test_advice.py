"""Advice on a move from Open Service Mesh: above all where the same object would let other calls through."""

from __future__ import annotations

from typing import Any

import pytest
import re2
import yaml

from cli.migrate.advice import advise
from cli.migrate.chart import helm_values
from cli.migrate.context import Advice
from shared.policy.regexes import anchored_at_start

MEMBER = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {openservicemesh.io/monitored-by: osm}}
"""


def of(text: str, *, member: bool = True, complete: bool = True) -> list[Advice]:
    objects: list[Any] = [*yaml.safe_load_all(text), *([yaml.safe_load(MEMBER)] if member else [])]
    found = advise(objects, "meshlog", complete=complete)
    return [one for one in found if not one.object.startswith("Namespace")]


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
  sidecar: {configResyncInterval: 30s, logLevel: debug, cipherSuites: [X]}
  certificate: {certKeyBitSize: 1024}
"""
    )
    assert [(one.verdict, one.finding.partition(" ")[0]) for one in said] == [
        ("to do", "is"),
        ("not yet", "sidecar.cipherSuites"),
        ("carries over", "sidecar.configResyncInterval"),
    ]
    assert "1024" not in said[0].finding
    assert "certKeyBitSize must be one of" in said[0].finding


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


def of_path(path: str) -> Advice:
    spec = {"matches": [{"name": "buy", "pathRegex": path, "methods": ["GET"]}]}
    metadata = {"name": "routes", "namespace": "shop"}
    group = {"apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "metadata": metadata, "spec": spec}
    (said,) = advise([group], "meshlog", complete=False)
    return said


@pytest.mark.parametrize(
    ("path", "also"),
    [
        ("/books", "/booksx"),
        ("/anything/a|/ip$", "/anything/ax"),
        ("/admin|/public$", "/adminx"),
        (r"/price\$", "/price$x"),
        (r"/dots/\.*", "/dots/x"),
        ("(?i)/a", "/ax"),
        ("/v1/[^/]+", "/v1/x/"),
    ],
)
def test_a_path_that_would_match_more_here_is_named_with_an_example(path: str, also: str) -> None:
    """Open Service Mesh matches the whole path, SMI and Meshlog its beginning."""
    said = of_path(path)
    assert said.verdict == "differs"
    assert f"more paths would be allowed, {also} for example" in said.finding
    assert re2.fullmatch(anchored_at_start(path), also) is not None
    assert re2.fullmatch(path, also) is None


@pytest.mark.parametrize("path", ["/books$", "/books.*", "", "/a(/.*)?$", "^/a$|^/b.*$", "/(a|b).*", "(?s)/a.*"])
def test_a_path_that_matches_the_same_carries_over(path: str) -> None:
    assert of_path(path).verdict == "carries over"


@pytest.mark.parametrize(("path", "why"), [(r"/a\b.*", "not judged"), ("/(", "cannot be judged")])
def test_a_path_that_cannot_be_judged_is_named_too(path: str, why: str) -> None:
    said = of_path(path)
    assert said.verdict == "differs"
    assert why in said.finding


def test_files_without_namespaces_are_read_as_those_of_members() -> None:
    for complete, verdict in ((False, "differs"), (True, "carries over")):
        (said,) = of(TARGET % ("shop", ""), member=False, complete=complete)
        assert said.verdict == verdict
    apart = TARGET % ("shop", "") + "---\n" + MEMBER.replace(", labels: {openservicemesh.io/monitored-by: osm}", "")
    (said,) = of(apart, member=False, complete=False)
    assert "is no member" in said.finding, "a file says that it is none"


SERVICE = """
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: %s, port: 80%s}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
spec: {serviceAccountName: %s, containers: [{name: c}]}
"""
BYTES = TARGET.replace("kind: HTTPRouteGroup, name: routes%s", "kind: TCPRoute, name: ports%s")


@pytest.mark.parametrize(
    ("service", "complete", "verdict", "says"),
    [
        ("", False, "differs", "where a Service of its pods has an HTTP port"),
        ("", True, "carries over", "the same calls"),
        (SERVICE % ("http", "", "store"), False, "differs", "(web:80)"),
        (SERVICE % ("http", "", "other"), False, "differs", "(web:80)"),
        (SERVICE % ("http", "", "other"), True, "carries over", "the same calls"),
        (SERVICE % ("tcp", "", "store"), False, "carries over", "the same calls"),
    ],
)
def test_a_target_on_connections_alone_opens_http_ports_here(
    service: str, *, complete: bool, verdict: str, says: str
) -> None:
    found = [one for one in of(BYTES % ("shop", "") + service, complete=complete) if one.object.startswith("Traffic")]
    assert [one.verdict for one in found] == [verdict]
    assert says in found[0].finding


@pytest.mark.parametrize(
    ("name", "protocol", "says"),
    [
        ("x", ", appProtocol: mysql", "is bytes, opened by TCPRoutes here"),
        ("x", ", appProtocol: https", "is bytes, opened by TCPRoutes here"),
        ("https-web", "", "is HTTP to Open Service Mesh"),
        ("http-web", "", ""),
        ("tcp-db", "", ""),
        ("db", ", appProtocol: tcp-server-first", ""),
    ],
)
def test_a_port_that_is_something_else_here_is_named(name: str, protocol: str, says: str) -> None:
    found = [one for one in of(SERVICE % (name, protocol, "store")) if one.object.startswith("Service")]
    assert bool(found) == bool(says)
    assert not found or says in found[0].finding


def test_metrics_of_sidecars_are_named_as_missing() -> None:
    member = yaml.safe_load(MEMBER)
    member["metadata"]["annotations"] = {"openservicemesh.io/metrics": "enabled"}
    metadata: dict[str, Any] = {"name": "w", "namespace": "shop", "annotations": {"prometheus.io/port": "15010"}}
    pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}}
    assert [(one.object, one.verdict) for one in advise([member, pod], "meshlog")] == [
        ("Namespace shop", "to do"),
        ("Namespace shop", "not yet"),
        ("Pod shop/w", "not yet"),
    ]


def test_images_of_open_service_mesh_are_to_be_left_out() -> None:
    said = of(
        """
apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshConfig
metadata: {name: osm-mesh-config, namespace: osm-system}
spec: {sidecar: {envoyImage: "envoyproxy/envoy-alpine:v1.19.1", initContainerImage: "openservicemesh/init:v1.0.0"}}
"""
    )
    assert [(one.verdict, one.action.partition(":")[0]) for one in said] == [("to do", "leave the field out")] * 2
    recent = of(
        """
apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshConfig
metadata: {name: osm-mesh-config, namespace: osm-system}
spec: {sidecar: {envoyImage: "envoyproxy/envoy:distroless-v1.40.0"}}
"""
    )
    assert [one.verdict for one in recent] == ["carries over"]


def test_a_rendered_chart_is_read_by_its_preset() -> None:
    said = of(
        """
apiVersion: v1
kind: ConfigMap
metadata: {name: preset-mesh-config, namespace: osm-system}
data:
  preset-mesh-config.json: |
    {"sidecar": {"configResyncInterval": "30s"}, "featureFlags": {"enableWASMStats": true}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: preset-mesh-config, namespace: broken}
data: {preset-mesh-config.json: "{"}
"""
    )
    assert [(one.verdict, one.finding.partition(" is ")[0]) for one in said] == [
        ("not yet", "MeshConfig: featureFlags.enableWASMStats"),
        ("differs", "its preset-mesh-config.json cannot be read"),
        ("carries over", "MeshConfig: sidecar.configResyncInterval has no effect and needs none (what a proxy holds"),
    ]


def test_values_of_the_chart_are_read() -> None:
    document = {
        "osm": {
            "meshName": "prod",
            "enablePermissiveTrafficPolicy": True,
            "deployGrafana": True,
            "deployJaeger": False,
            "sidecarImage": "envoyproxy/envoy:v1.22.2",
            "featureFlags": {"enableRetryPolicy": True},
            "certificateProvider": {"kind": "vault", "certKeyBitSize": 4096},
            "osmController": {"replicaCount": 3},
            "unheardOf": {"of": 1},
        }
    }
    values = helm_values(document)
    assert values is not None
    said = [(one.verdict, one.finding.partition(" ")[0].rstrip(":")) for one in advise([values], "meshlog")]
    assert said == [
        ("to do", "sidecar.envoyImage"),
        ("not yet", "deployGrafana"),
        ("not yet", "featureFlags.enableRetryPolicy"),
        ("differs", "certificateProvider.kind"),
        ("differs", "unheardOf.of"),
        ("carries over", "meshName"),
        ("carries over", "sizes"),
    ]
    assert helm_values({"replicas": 1}) is None
    assert helm_values([1]) is None


def test_the_add_on_is_disabled_and_not_uninstalled() -> None:
    image = "mcr.microsoft.com/oss/openservicemesh/osm-controller:v1.2.3"
    part = {
        "kind": "Deployment",
        "metadata": {"name": "osm-controller", "namespace": "kube-system"},
        "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
    }
    (said,) = advise([part], "meshlog")
    assert "AKS add-on" in said.finding
    assert "az aks disable-addons" in said.action
