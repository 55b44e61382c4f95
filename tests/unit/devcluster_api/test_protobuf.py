"""Protobuf bodies, as kubectl 1.33 sent them (recorded)."""

from __future__ import annotations

import base64

import pytest

from deploy.devcluster.apiserver.protobuf import decode
from deploy.devcluster.apiserver.refusals import RefusedError
from deploy.devcluster.cluster import Obj


@pytest.mark.parametrize(
    ("body", "obj"),
    [
        (
            "azhzAAoPCgJ2MRIJQ29uZmlnTWFwEhsKEQoBbRIAGgAiACoAMgA4AEIAEgYKAWESAWIaACIA",
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}},
        ),
        (
            (
                "azhzAAooChhhdXRoZW50aWNhdGlvbi5rOHMuaW8vdjESDFRva2VuUmVxdWVzdBImChAKABIAGgAiACoAMgA4AEIAEgwKB21lc2hsb2cgsAka"
                "BAoAEgAaACIA"
            ),
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"audiences": ["meshlog"], "expirationSeconds": 1200},
            },
        ),
        (
            (
                "azhzAAoVCgdhcHBzL3YxEgpEZXBsb3ltZW50EqcBChsKAWQSABoAIgAqADIAOABCAFoICgNhcHASAWQSeggAEgoKCAoDYXBwEgFkGmIKGgoA"
                "EgAaACIAKgAyADgAQgBaCAoDYXBwEgFkEkQSJgoBaRIBaSoAMgoKABAAGFAiACoAQgBqAHIAgAEAiAEAkAEAogEAGgAyAEIASgBSAFgAYABo"
                "AIIBAIoBAJoBAMIBACICCgAoADgAGgwIABAAGAAgACgAOAAaACIA"
            ),
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "d", "labels": {"app": "d"}},
                "spec": {
                    "replicas": 0,
                    "selector": {"matchLabels": {"app": "d"}},
                    "template": {
                        "metadata": {"labels": {"app": "d"}},
                        "spec": {"containers": [{"name": "i", "image": "i", "ports": [{"containerPort": 80}]}]},
                    },
                },
            },
        ),
        (
            (
                "azhzAAoNCgJ2MRIHU2VydmljZRJmChsKAXYSABoAIgAqADIAOABCAFoICgNhcHASAXYSQwoeCgc4MC1odHRwEgNUQ1AYUCIKCAEQABoEaHR0"
                "cCgAEggKA2FwcBIBdhoAIglDbHVzdGVySVA6AEIAUgBaAGAAaAAaAgoAGgAiAA=="
            ),
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "v", "labels": {"app": "v"}},
                "spec": {
                    "ports": [{"name": "80-http", "protocol": "TCP", "port": 80, "targetPort": "http"}],
                    "selector": {"app": "v"},
                    "type": "ClusterIP",
                },
            },
        ),
    ],
)
def test_recorded_bodies_are_read(body: str, obj: Obj) -> None:
    """Zeros that mean "not said" are dropped, the zero replicas that were said stay."""
    assert decode(base64.b64decode(body)) == obj


def test_a_kind_that_is_not_known_is_refused_by_name() -> None:
    body = b"k8s\x00\x0a\x0d\x0a\x02v1\x12\x07Nothing"
    with pytest.raises(RefusedError, match="protobuf of v1 Nothing is not understood here, JSON is"):
        decode(body)
