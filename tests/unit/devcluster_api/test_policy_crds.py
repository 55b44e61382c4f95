"""The policy kinds of Open Service Mesh are taken as its users wrote them, and nothing of them is pruned."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.cluster_api import KubeApiError, Obj
from tests.unit.devcluster_api.test_crds import definitions

WRITTEN = """
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: httpbin, namespace: default}
spec:
  sources: [{kind: ServiceAccount, name: curl, namespace: curl}]
  hosts: [httpbin.org]
  ipAddresses: [10.0.0.0/8]
  ports: [{number: 443, protocol: https}, {number: 80, protocol: HTTP}]
  matches:
  - {apiGroup: specs.smi-spec.io/v1alpha4, kind: HTTPRouteGroup, name: routes}
  - {apiGroup: policy.openservicemesh.io/v1alpha1, kind: UpstreamTrafficSetting, name: limits}
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: IngressBackend
metadata: {name: store, namespace: default}
spec:
  backends:
  - {name: store, port: {number: 14001, protocol: https}, tls: {skipClientCertValidation: false, sniHosts: [a.b]}}
  sources:
  - {kind: Service, name: envoy, namespace: ingress}
  - {kind: AuthenticatedPrincipal, name: ingress.ingress.cluster.local}
  - {kind: IPRange, name: 10.0.0.0/8}
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Retry
metadata: {name: again, namespace: default}
spec:
  source: {kind: ServiceAccount, name: curl, namespace: curl}
  destinations: [{kind: Service, name: httpbin, namespace: httpbin}]
  retryPolicy: {retryOn: 5xx, perTryTimeout: 1s, numRetries: 5, retryBackoffBaseInterval: 1s}
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: UpstreamTrafficSetting
metadata: {name: limits, namespace: default}
spec:
  host: httpbin.httpbin.svc.cluster.local
  connectionSettings:
    tcp: {maxConnections: 10, connectTimeout: 5s}
    http: {maxRequests: 1, maxPendingRequests: 1, maxRetries: 1, maxRequestsPerConnection: 3}
  rateLimit:
    local:
      tcp: {connections: 1, unit: minute, burst: 2}
      http: {requests: 3, unit: minute, responseStatusCode: 509, responseHeadersToAdd: [{name: a, value: b}]}
    global:
      http:
        rateLimitService: {host: ratelimiter.rls.svc.cluster.local, port: 8081}
        domain: test
        descriptors:
        - entries: [{genericKey: {key: k, value: v}}, {remoteAddress: {}}, {requestHeader: {name: n, key: k}}]
        - entries: [{headerValueMatch: {value: v, expectMatch: false, headers: [{name: h, exact: x}]}}]
  httpRoutes:
  - {path: /status/200, rateLimit: {local: {requests: 1, unit: second}}}
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Telemetry
metadata: {name: logs, namespace: default}
spec:
  selector: {app: store}
  accessLog:
    format: '[%START_TIME%] %PROTOCOL%'
    openTelemetry: {extensionService: {namespace: osm-system, name: otel}, attributes: {a: b}}
---
apiVersion: config.openservicemesh.io/v1alpha2
kind: ExtensionService
metadata: {name: otel, namespace: default}
spec: {host: collector.otel.svc.cluster.local, port: 4317, protocol: h2c, connectTimeout: 1s}
"""
PLURALS = {
    "Egress": "egresses",
    "IngressBackend": "ingressbackends",
    "Retry": "retries",
    "UpstreamTrafficSetting": "upstreamtrafficsettings",
    "Telemetry": "telemetries",
    "ExtensionService": "extensionservices",
}
OBJECTS: list[Obj] = list(yaml.safe_load_all(WRITTEN))


def resource(obj: Obj) -> str:
    return f"{PLURALS[obj['kind']]}.{obj['apiVersion'].partition('/')[0]}"


@pytest.fixture
async def mesh(api: ApiServer) -> ApiServer:
    for crd in definitions():
        await api.cluster.create("customresourcedefinitions.apiextensions.k8s.io", crd)
    return api


@pytest.mark.parametrize("obj", OBJECTS, ids=lambda obj: obj["kind"])
async def test_what_people_wrote_is_taken_whole_and_can_be_given_a_status(mesh: ApiServer, obj: Obj) -> None:
    made = await mesh.cluster.create(resource(obj), obj)
    assert made["spec"] == obj["spec"]
    status = {"currentStatus": "error", "reason": "why", "conditions": [{"type": "Accepted", "status": "False"}]}
    told = await mesh.cluster.patch(
        resource(obj), "default", obj["metadata"]["name"], {"status": status}, subresource="status"
    )
    assert told["status"] == status


@pytest.mark.parametrize(
    ("kind", "change", "sentence"),
    [
        ("Egress", {"ports": [{"number": 0, "protocol": "http"}]}, "spec.ports[0].number"),
        ("IngressBackend", {"sources": [{"kind": "Pod", "name": "x"}]}, 'Unsupported value: "Pod"'),
        ("Retry", {"destinations": None}, "spec.destinations"),
        ("UpstreamTrafficSetting", {"host": None}, "spec.host"),
        ("ExtensionService", {"port": 70000}, "spec.port"),
    ],
)
async def test_what_nobody_can_mean_is_refused(
    mesh: ApiServer, kind: str, change: dict[str, Any], sentence: str
) -> None:
    obj = next(obj for obj in OBJECTS if obj["kind"] == kind)
    spec = {key: value for key, value in {**obj["spec"], **change}.items() if value is not None}
    with pytest.raises(KubeApiError) as refusal:
        await mesh.cluster.create(resource(obj), {**obj, "spec": spec})
    assert refusal.value.status == 422
    assert sentence in refusal.value.sentence
