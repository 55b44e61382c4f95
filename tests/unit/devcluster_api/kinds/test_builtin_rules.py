"""What the built-in kinds refuse beyond wrong types, one broken thing a row."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.devcluster.apiserver import ApiServer
from deploy.devcluster.cluster_api import KubeApiError, Obj
from tests.unit.devcluster_api.objects import config_map, deployment, pod


def service(**spec: Any) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s", "namespace": "default"},
        "spec": {"ports": [{"port": 80}], **spec},
    }


def container(**fields: Any) -> Obj:
    return pod(containers=[{"name": "c", "image": "i", **fields}])


def named(obj: Obj, **metadata: Any) -> Obj:
    return {**obj, "metadata": {**obj["metadata"], **metadata}}


def webhook(**fields: Any) -> Obj:
    one = {
        "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://x"},
    }  # fmt: skip
    kind = "MutatingWebhookConfiguration"
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": "w"},
        "webhooks": [{**one, **fields}],
    }


@pytest.mark.parametrize(
    ("obj", "sentence"),
    [
        (named(pod(), name="Upper"), "a lowercase RFC 1123 subdomain must consist of"),
        (named(pod(), name="x" * 254), "must be no more than 253 characters"),
        (named(service(), name="1service"), "a DNS-1035 label must consist of"),
        (named(pod(), labels={"a b": "c"}), "metadata.labels: Invalid value"),
        (named(pod(), labels={"a": "-"}), "a valid label must be an empty string or consist of"),
        (named(pod(), annotations={"a": "x" * 300_000}), "Too long: may not be more than 262144 bytes"),
        (pod(containers=[]), "spec.containers: Required value"),
        (container(image=""), "spec.containers[0].image: Required value"),
        (container(ports=[{"containerPort": 0}]), "must be between 1 and 65535, inclusive"),
        (container(ports=[{"containerPort": 1, "protocol": "X"}]), 'Unsupported value: "X"'),
        (container(volumeMounts=[{"name": "v", "mountPath": "/x"}]), 'volumeMounts[0].name: Not found: "v"'),
        (pod(volumes=[{"name": "v"}, {"name": "v"}]), 'spec.volumes[1].name: Duplicate value: "v"'),
        (pod(volumes=[{"name": "../v"}]), "spec.volumes[0].name: Invalid value"),
        (pod(volumes=[{"name": ""}]), "spec.volumes[0].name: Required value"),
        (container(readinessProbe={}), "must specify a handler type"),
        (container(env=[{"name": "A", "value": "x", "valueFrom": {}}]), "may not be specified when `value`"),
        (pod(restartPolicy="Sometimes"), 'spec.restartPolicy: Unsupported value: "Sometimes"'),
        (
            pod(containers=[{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]),
            'spec.containers[1].name: Duplicate value: "c"',
        ),
        (deployment(replicas=-1), "spec.replicas: Invalid value: -1"),
        (deployment(selector={"matchLabels": {"app": "z"}}), "`selector` does not match template `labels`"),
        (deployment(selector={}), "empty selector is invalid"),
        (service(ports=[]), "spec.ports: Required value"),
        (service(ports=[{"port": 80}, {"port": 81}]), "spec.ports[0].name: Required value"),
        (service(type="Odd"), 'spec.type: Unsupported value: "Odd"'),
        (config_map(**{"a/b": "c"}), "a valid config key must consist of"),
        (webhook(name="short"), "should be a domain with at least three segments"),
        (webhook(sideEffects="Some"), "webhooks[0].sideEffects: Unsupported value"),
        (webhook(timeoutSeconds=31), "the timeout value must be between 1 and 30 seconds"),
        (webhook(clientConfig={}), "exactly one of url or service is required"),
    ],
)
async def test_what_is_refused(api: ApiServer, obj: Obj, sentence: str) -> None:
    found = api.kinds.of(obj["apiVersion"], obj["kind"])
    assert found is not None
    with pytest.raises(KubeApiError) as refusal:
        await api.cluster.create(found[0].resource, obj)
    assert (refusal.value.status, refusal.value.reason) == (422, "Invalid")
    assert sentence in refusal.value.sentence


async def test_a_deployments_selector_stays(api: ApiServer) -> None:
    made = await api.cluster.create("deployments.apps", deployment())
    made["spec"]["selector"] = {"matchLabels": {"app": "b"}}
    made["spec"]["template"]["metadata"]["labels"] = {"app": "b"}
    with pytest.raises(KubeApiError, match="field is immutable"):
        await api.cluster.update("deployments.apps", made)


async def test_a_service_keeps_the_address_that_it_was_given(api: ApiServer) -> None:
    await api.cluster.create("services", service())
    await api.cluster.patch("services", "default", "s", {"spec": {"clusterIP": "10.96.0.5"}})
    made = await api.cluster.update("services", service(ports=[{"port": 81}]))
    assert (made["spec"]["clusterIP"], made["spec"]["clusterIPs"]) == ("10.96.0.5", ["10.96.0.5"])
    with pytest.raises(KubeApiError, match="may not change once set"):
        await api.cluster.patch("services", "default", "s", {"spec": {"clusterIP": "10.96.0.6"}})


async def test_a_secrets_text_becomes_data(api: ApiServer) -> None:
    obj = {"metadata": {"name": "s", "namespace": "default"}, "stringData": {"a": "hello"}}
    made = await api.cluster.create("secrets", obj)
    assert made["data"] == {"a": "aGVsbG8="}
    assert "stringData" not in made
