"""Valid objects to start from; a test breaks one thing."""

from __future__ import annotations

from typing import Any

from deploy.devcluster.cluster_api import Obj


def pod(name: str = "p", **spec: Any) -> Obj:
    """A pod of one container."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "i"}], **spec},
    }


def deployment(name: str = "d", **spec: Any) -> Obj:
    """A Deployment of such pods."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "a"}},
            "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
            **spec,
        },
    }


def config_map(name: str = "m", **data: str) -> Obj:
    """A ConfigMap."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
        "data": data,
    }


def definition(schema: dict[str, Any] | None = None, *, plural: str = "things", kind: str = "Thing") -> Obj:
    """A CustomResourceDefinition with a status subresource, in two versions."""
    spec = schema or {"type": "object", "properties": {"size": {"type": "integer", "minimum": 1}}}
    full = {
        "type": "object",
        "properties": {"spec": spec, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
    }
    version = {"served": True, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": full}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.example.org"},
        "spec": {
            "group": "example.org",
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind},
            "versions": [{"name": "v1", "storage": True, **version}, {"name": "v1beta1", "storage": False, **version}],
        },
    }


def thing(name: str = "t", api_version: str = "example.org/v1", **spec: Any) -> Obj:
    """An object of that definition."""
    return {
        "apiVersion": api_version,
        "kind": "Thing",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }
