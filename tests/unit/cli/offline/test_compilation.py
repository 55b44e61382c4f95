"""`meshlog compile` and `meshlog check`, as a person runs them on a folder of manifests."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cli.__main__ import main
from tests.programs import envoy_binary

DEMO = Path(__file__).parents[4] / "deploy" / "demo" / "manifests"
STORE = "svc:bookstore/bookstore"


class Printed:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *arguments: str) -> int:
        code = main(list(arguments))
        self.out, self.err = self._capsys.readouterr()
        return code


@pytest.fixture
def meshlog(capsys: pytest.CaptureFixture[str]) -> Printed:
    return Printed(capsys)


@pytest.mark.parametrize(
    ("ends", "code", "said"),
    [
        (["bookbuyer/bookbuyer", STORE, "--path", "/books-bought"], 0, "allowed by bookstore/buyer-may-buy"),
        (["sa:bookthief/bookthief", STORE, "--path", "/buy-a-book/new"], 1, "the caller sees 403"),
        (["bookbuyer/bookbuyer", "database/database"], 1, "the caller sees closed"),
        (["outside/passerby", STORE], 1, "the caller sees reset"),
        (["database/database", STORE], 1, "the caller sees 403: no policy lets this caller call that address"),
        (["sa:bookwarehouse/bookwarehouse", "svc:database/database", "--port", "5432"], 0, "allowed by database/"),
        (["svc:bookwarehouse/bookwarehouse", "sa:database/database"], 0, "allowed by database/"),
    ],
)
def test_a_call_is_decided_and_its_reason_is_said(meshlog: Printed, ends: list[str], code: int, said: str) -> None:
    assert meshlog("check", "-f", str(DEMO), *ends) == code
    assert said in meshlog.out
    first, *hints = meshlog.out.splitlines()
    assert not first.startswith(" ")
    assert all(hint.startswith("  ") for hint in hints)
    assert not hints or code == 1


@pytest.mark.parametrize(
    ("ends", "hint"),
    [
        (
            ["bookbuyer/bookbuyer", STORE, "--path", "/books-bought", "--method", "DELETE"],
            "TrafficTarget bookstore/buyer-may-buy-from-v1 names this caller, and allows only GET, not DELETE",
        ),
        (
            ["bookthief/bookthief", STORE, "--path", "/buy-a-book/new"],
            "TrafficTarget bookstore/thief-may-look-at-v1 names this caller, and allows only paths that begin with /",
        ),
        (
            ["bookthief/bookthief", STORE, "--path", "/buy-a-book/new"],
            "TrafficTarget bookstore/buyer-may-buy-from-v1 lets this through for bookbuyer/bookbuyer, and bookthief/",
        ),
        (["database/database", STORE], "no TrafficTarget over bookstore/bookstore-v1, bookstore/bookstore-v2 names"),
        (["outside/passerby", STORE], "namespace outside is no member of the mesh: `meshlog namespace add outside`"),
    ],
)
def test_a_denial_names_what_would_nearly_have_allowed_it(meshlog: Printed, ends: list[str], hint: str) -> None:
    assert meshlog("check", "-f", str(DEMO), *ends) == 1
    assert f"\n  {hint}" in meshlog.out


def test_the_request_that_was_judged_is_named(meshlog: Printed) -> None:
    meshlog("check", "-f", str(DEMO), "bookbuyer/bookbuyer", STORE, "--path", "/books-bought")
    assert "bookstore/bookstore:14001, GET /books-bought: allowed" in meshlog.out
    meshlog("check", "-f", str(DEMO), "sa:bookwarehouse/bookwarehouse", "svc:database/database", "--port", "5432")
    assert "database/database:5432, a connection: allowed" in meshlog.out


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (["bookbuyer/nobody", STORE], "there is no pod bookbuyer/nobody"),
        (["bookbuyer/bookbuyer", "svc:bookstore/none"], "there is no Service"),
        (["bookbuyer", STORE], "must be NS/POD"),
        (["bookbuyer/bookbuyer", STORE, "--port", "1"], "choose a port"),
        (["bookbuyer/bookbuyer", STORE, "--header", "x"], "is no header"),
    ],
)
def test_bad_input_is_one_sentence_and_2(meshlog: Printed, ends: list[str], said: str) -> None:
    assert meshlog("check", "-f", str(DEMO), *ends) == 2
    assert said in meshlog.err
    assert "Traceback" not in meshlog.err


def test_a_summary_names_classes_and_what_was_left_out(meshlog: Printed, tmp_path: Path) -> None:
    for file in DEMO.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "99-bad.yaml").write_text(
        yaml.dump(
            {
                "apiVersion": "access.smi-spec.io/v1alpha3",
                "kind": "TrafficTarget",
                "metadata": {"name": "empty", "namespace": "bookstore"},
                "spec": {"destination": {"kind": "ServiceAccount", "name": "x"}, "rules": [], "sources": []},
            }
        )
    )
    assert meshlog("compile", "-f", str(tmp_path)) == 0
    assert "6 proxies in 6 classes" in meshlog.out
    assert "left out: TrafficTarget bookstore/empty: has no sources" in meshlog.out
    assert "[smi/target-sources]" in meshlog.out


def test_the_same_folder_gives_the_same_bytes(meshlog: Printed) -> None:
    """Whatever order the files come in."""
    files = [argument for file in sorted(DEMO.iterdir(), reverse=True) for argument in ("-f", str(file))]
    assert meshlog("compile", "-f", str(DEMO), "-o", "json") == 0
    forwards = meshlog.out
    assert meshlog("compile", *files, "-o", "json") == 0
    assert meshlog.out == forwards
    assert set(json.loads(forwards)["proxies"]) >= {"bookbuyer/bookbuyer-0"}


def test_yaml_of_one_proxy_is_only_its_own(meshlog: Printed) -> None:
    assert meshlog("compile", "-f", str(DEMO), "--proxy", "database/database", "-o", "yaml") == 0
    found = yaml.safe_load(meshlog.out)
    assert list(found["proxies"]) == ["database/database-0"]
    (told,) = found["classes"].values()
    assert set(told["listeners"]) == {"inbound", "outbound"}
    assert told["clusters"].keys() == {"blackhole", "local|5432"}, "it may call nobody"


def test_a_bootstrap_is_of_one_proxy_that_has_a_sidecar(meshlog: Printed) -> None:
    assert meshlog("compile", "-f", str(DEMO), "-o", "bootstrap") == 2
    assert meshlog("compile", "-f", str(DEMO), "-o", "bootstrap", "--proxy", "outside/passerby") == 2
    assert "has no sidecar" in meshlog.err


def test_a_summary_names_a_headless_service_that_a_class_may_call(meshlog: Printed, tmp_path: Path) -> None:
    for file in DEMO.iterdir():
        documents = list(yaml.safe_load_all(file.read_text()))
        for one in documents:
            if one["kind"] == "Service" and one["metadata"]["name"] == "database":
                one["spec"]["clusterIP"] = "None"
        (tmp_path / file.name).write_text(yaml.dump_all(documents))
    assert meshlog("compile", "-f", str(tmp_path)) == 0
    (called,) = [line for line in meshlog.out.splitlines() if "database/database|5432" in line]
    assert called.strip() == "may call: database/database|5432"


@pytest.mark.envoy
def test_envoy_accepts_a_bootstrap(meshlog: Printed, tmp_path: Path) -> None:
    assert meshlog("compile", "-f", str(DEMO), "-o", "bootstrap", "--proxy", "bookstore/bookstore-v1") == 0
    (tmp_path / "envoy.json").write_text(meshlog.out)
    arguments = [
        envoy_binary(),
        "--mode",
        "validate",
        "-c",
        str(tmp_path / "envoy.json"),
        "-l",
        "error",
        "--use-dynamic-base-id",
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


PROXYLESS = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {openservicemesh.io/monitored-by: meshlog}}
---
apiVersion: v1
kind: Pod
metadata: {name: price, namespace: shop, labels: {app: price}, annotations: {meshlog.io/proxyless: "true"}}
spec: {serviceAccountName: price, containers: [{name: c, image: x}]}
---
apiVersion: v1
kind: Pod
metadata: {name: till, namespace: shop, annotations: {meshlog.io/proxyless: "true"}}
spec: {serviceAccountName: %s, containers: [{name: c, image: x}]}
---
apiVersion: v1
kind: Service
metadata: {name: price, namespace: shop}
spec: {selector: {app: price}, ports: [{name: grpc, port: 50051, appProtocol: grpc}]}
---
apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {name: all, namespace: shop}
spec: {matches: [{name: all, pathRegex: ".*"}]}
---
apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {name: till-may-ask, namespace: shop}
spec:
  destination: {kind: ServiceAccount, name: price, namespace: shop}
  sources: [{kind: ServiceAccount, name: till, namespace: shop}]
  rules: [{kind: HTTPRouteGroup, name: all}]
"""


@pytest.mark.parametrize(
    ("account", "code", "said"), [("till", 0, "allowed by the configuration"), ("cat", 1, "refused")]
)
def test_a_proxyless_call_is_decided_by_what_its_library_is_sent(
    meshlog: Printed, tmp_path: Path, account: str, code: int, said: str
) -> None:
    (tmp_path / "shop.yaml").write_text(PROXYLESS % account)
    assert meshlog("check", "-f", str(tmp_path), "shop/till", "svc:shop/price", "--path", "/shop.Price/Get") == code
    assert said in meshlog.out


CONFIG = """
apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshConfig
metadata: {name: osm-mesh-config, namespace: meshlog-system}
spec:
  sidecar:
    initContainerImage: "openservicemesh/init:v1.2.4"
    envoyImage: "registry.example/proxy:1"
    cipherSuites: [X]
  certificate: {certKeyBitSize: 1024}
---
apiVersion: policy.openservicemesh.io/v1alpha1
kind: Egress
metadata: {name: out, namespace: bookbuyer}
spec: {hosts: [example.com]}
"""


@pytest.mark.parametrize("verb", ["compile", "check"])
def test_what_a_mesh_would_refuse_or_warn_of_is_said_without_one(meshlog: Printed, tmp_path: Path, verb: str) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    call = ["bookbuyer/bookbuyer", STORE, "--path", "/books-bought"] if verb == "check" else []
    assert (
        meshlog(
            verb, "-f", str(DEMO / "10-workloads.yaml"), "-f", str(DEMO / "20-access.yaml"), "-f", str(tmp_path), *call
        )
        == 0
    )
    text = meshlog.out + meshlog.err
    assert "certKeyBitSize must be one of 2048, 3072, 4096" in text
    assert "openservicemesh/init:v1.2.4 is Open Service Mesh's and lacks the meshlog command" in text
    assert "registry.example/proxy:1 does not say that it holds Envoy 1.36 or newer" in meshlog.err
    assert "not supported yet: sidecar.cipherSuites" in meshlog.err
    assert "Egress bookbuyer/out: this kind is not supported yet" in meshlog.err
