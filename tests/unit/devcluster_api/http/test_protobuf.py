"""Protobuf bodies, as kubectl 1.32 and 1.33 sent them (recorded)."""

from __future__ import annotations

import base64

import pytest

from deploy.devcluster.apiserver.http.protobuf import decode
from deploy.devcluster.apiserver.status_errors import StatusError
from deploy.devcluster.cluster_api import Obj


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
        (
            (
                "azhzAAoJCgJ2MRIDUG9kEs4EChgKAWISABoHZGVmYXVsdCIAKgAyADgAQgASnAQKCQoBZRIEEgIKAAo0CgF0Ei/SASwKDyINCgF4EJAc"
                "GgV0b2tlbgoWGhQKCgoIc2V0dGluZ3MSBgoBYRIBYhCkAxKKAgoBYRIBeBoFc2xlZXAaAjk5KgAyEAoDd2ViEAAYUCIDVENQKgA6BQoB"
                "UBIAOhwKAklQEgAaFAoSCgJ2MRIMc3RhdHVzLnBvZElQOhoKAUsSABoTGhEKCgoIc2V0dGluZ3MSAWEYAUIgCg8KBm1lbW9yeRIFCgMx"
                "R2kSDQoDY3B1EgYKBDEwMG1KDQoBZRAAGgIvZSIAMgBKDQoBdBABGgIvdCIAMgBiBhIEIgIIAWoUL2Rldi90ZXJtaW5hdGlvbi1sb2dy"
                "BkFsd2F5c3oXChEKClNZU19QVFJBQ0USA0FMTCAAOACAAQCIAQCQAQCaARIKAlhfEgwKCgoIc2V0dGluZ3OiAQRGaWxlGgZBbHdheXMg"
                "ADIMQ2x1c3RlckZpcnN0QgdkZWZhdWx0SgdkZWZhdWx0UgBYAGAAaAByAIIBAIoBAJoBEWRlZmF1bHQtc2NoZWR1bGVyqAEAsgE2Chxu"
                "b2RlLmt1YmVybmV0ZXMuaW8vbm90LXJlYWR5EgZFeGlzdHMaACIJTm9FeGVjdXRlKKwCsgE4Ch5ub2RlLmt1YmVybmV0ZXMuaW8vdW5y"
                "ZWFjaGFibGUSBkV4aXN0cxoAIglOb0V4ZWN1dGUorALCAQDYAQHwAQEaEwoAGgAiACoAMgBKAFoAcgCIAQAaACIA"
            ),
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "b", "namespace": "default"},
                "spec": {
                    "automountServiceAccountToken": False,
                    "containers": [
                        {
                            "name": "a",
                            "image": "x",
                            "command": ["sleep", "99"],
                            "env": [
                                {"name": "P"},
                                {
                                    "name": "IP",
                                    "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}},
                                },
                                {
                                    "name": "K",
                                    "valueFrom": {
                                        "configMapKeyRef": {"name": "settings", "key": "a", "optional": True}
                                    },
                                },
                            ],
                            "envFrom": [{"prefix": "X_", "configMapRef": {"name": "settings"}}],
                            "imagePullPolicy": "Always",
                            "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
                            "ports": [{"name": "web", "containerPort": 80, "protocol": "TCP"}],
                            "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "100m"}},
                            "securityContext": {
                                "runAsUser": 0,
                                "allowPrivilegeEscalation": False,
                                "capabilities": {"add": ["SYS_PTRACE"], "drop": ["ALL"]},
                            },
                            "terminationMessagePath": "/dev/termination-log",
                            "terminationMessagePolicy": "File",
                            "volumeMounts": [
                                {"name": "e", "mountPath": "/e"},
                                {"name": "t", "mountPath": "/t", "readOnly": True},
                            ],
                        }
                    ],
                    "dnsPolicy": "ClusterFirst",
                    "enableServiceLinks": True,
                    "restartPolicy": "Always",
                    "schedulerName": "default-scheduler",
                    "securityContext": {},
                    "serviceAccount": "default",
                    "serviceAccountName": "default",
                    "shareProcessNamespace": True,
                    "terminationGracePeriodSeconds": 0,
                    "tolerations": [
                        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
                        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
                    ],
                    "volumes": [
                        {"name": "e", "emptyDir": {}},
                        {
                            "name": "t",
                            "projected": {
                                "defaultMode": 420,
                                "sources": [
                                    {
                                        "serviceAccountToken": {
                                            "audience": "x",
                                            "expirationSeconds": 3600,
                                            "path": "token",
                                        }
                                    },
                                    {"configMap": {"name": "settings", "items": [{"key": "a", "path": "b"}]}},
                                ],
                            },
                        },
                    ],
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
    with pytest.raises(StatusError, match="protobuf of v1 Nothing is not understood here, JSON is"):
        decode(body)
