"""What `meshlog check` says of requests that are read before policy is: it is never kinder than the sidecars."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.__main__ import main

MESH = """
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {openservicemesh.io/monitored-by: meshlog}
  annotations: {openservicemesh.io/sidecar-injection: enabled}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: client, namespace: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {serviceAccountName: web, containers: [{name: web, image: any, ports: [{containerPort: 8080}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client, namespace: shop}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec: {serviceAccountName: client, containers: [{name: client, image: any}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: api, port: 81, targetPort: 8081}
  - {name: mysql, port: 3306}
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {name: some, namespace: shop}
spec:
  matches:
  - {name: public, pathRegex: "/public/.*", methods: [GET]}
  - {name: tunnel, methods: [CONNECT], headers: [{host: "db.other:443"}]}
---
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {name: client-web, namespace: shop}
spec:
  destination: {kind: ServiceAccount, name: web, namespace: shop}
  sources: [{kind: ServiceAccount, name: client, namespace: shop}]
  rules: [{kind: HTTPRouteGroup, name: some}]
"""

PATHS = {
    "/public/x": "allowed",
    "/public/../public/x": "allowed",
    "/x/../public/y": "allowed",
    "//public//x": "allowed",
    "/public/a;v=1/b": "allowed",
    "/public/x?/../admin": "allowed",
    "/%70ublic/x": "allowed",
    "http://any/public/x": "allowed",
    "/public/../admin": "403",
    "/public/%2e%2e/admin": "403",
    "/public/%2E./admin": "403",
    "/public/..;/admin": "403",
    "/public/..;a=b/admin": "403",
    "/public\\x": "allowed",
    "\\public\\..\\admin": "403",
    "/public/..\\admin": "403",
    "/public": "403",
    "/Public/x": "403",
    "/publicx/y": "403",
    "/x?/public/y": "403",
    "/public/..%2Fadmin": "400",
    "/public/..%5cadmin": "400",
    "/public/%252e%252e/admin": "400",
    # The first sidecar unescapes the dots, the second one resolves them.
    "/public/%2e%2e;x/admin": "403",
    "/public/x%00": "400",
    "/public/x#y": "400",
    "/public/\u00e9": "400",
    # The first slash is for people to leave out.
    "public/x": "allowed",
    "": "403",
}


def seen(capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: str) -> tuple[str, str]:
    """`allowed`, or what the caller sees; and all that is said."""
    (tmp_path / "mesh.yaml").write_text(MESH)
    code = main(["check", "-f", str(tmp_path), "shop/client", "svc:shop/web", *arguments])
    said = capsys.readouterr().out
    assert code == (0 if "allowed by" in said else 1), said
    return ("allowed" if code == 0 else said.partition("the caller sees ")[2].partition(":")[0]), said


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_judged_as_the_sidecars_read_it(
    path: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found, said = seen(capsys, tmp_path, "--port", "80", f"--path={path}")
    assert found == PATHS[path], said


@pytest.mark.parametrize(
    ("arguments", "sees"),
    [
        (["--method", "POST", "--path", "/public/x"], "403"),
        (["--method", "FETCH", "--path", "/public/x"], "400"),
        (["--method", "get", "--path", "/public/x"], "allowed"),
        (["--method", "OPTIONS", "--path", "*"], "404"),
        (["--method", "CONNECT", "--path", "db.other:443"], "allowed"),
        (["--method", "CONNECT", "--path", "db.other:80"], "403"),
        (["--method", "CONNECT", "--path", "/public/x"], "400"),
        (["--header", f"x={'a' * 140_000}", "--path", "/public/x"], "431"),
        ([*(word for number in range(1_001) for word in ("--header", f"x-{number}=a")), "--path", "/public/x"], "431"),
        (["--header", "host=a b", "--path", "/public/x"], "400"),
    ],
)
def test_a_head_is_judged_as_the_sidecars_read_it(
    arguments: list[str], sees: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found, said = seen(capsys, tmp_path, "--port", "80", *arguments)
    assert found == sees, said[:500]


def test_bytes_are_judged_as_a_connection(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A port that is named after a protocol is not HTTP, so rules about requests open nothing of it."""
    found, said = seen(capsys, tmp_path, "--port", "3306")
    assert found == "closed"
    assert "a connection: denied" in said


def test_that_a_port_is_taken_for_http_is_said_where_nothing_else_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _, assumed = seen(capsys, tmp_path, "--port", "81", "--path", "/public/x")
    assert "port 81 is read as HTTP because its Service says nothing else" in assumed
    _, said = seen(capsys, tmp_path, "--port", "80", "--path", "/public/x")
    assert "is read as HTTP" not in said
