"""What an installation asks of a cluster: valid objects, no privileges, and no secret of one service with another."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from cryptography import x509

from deploy.install.control_plane import control_plane
from deploy.install.profile import PRESETS, SERVICES, Manifest, Profile, chosen
from deploy.install.secrets import log_secrets
from deploy.nats import PEOPLE
from shared.errors import BadInputError
from tests.integration.devcluster_api.client import serving

EVERY = [*PRESETS, "embedded"]


def profile(preset: str) -> Profile:
    return Profile() if preset == "embedded" else PRESETS[preset]


def pods(manifests: list[Manifest]) -> dict[str, Any]:
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in manifests
        if one["kind"] in {"Deployment", "StatefulSet"}
    }


@pytest.mark.parametrize("preset", EVERY)
async def test_the_api_takes_every_object_and_knows_every_field(preset: str) -> None:
    """Strict validation against the shapes that are generated from Kubernetes' own OpenAPI document."""
    async with serving() as client:
        for one in [*control_plane(profile(preset)), *log_secrets(profile(preset))]:
            group, _, version = one["apiVersion"].rpartition("/")
            found = next(kind for kind in client.api.kinds if (kind.group, kind.kind) == (group, one["kind"]))
            root = f"/apis/{group}/{version}" if group else f"/api/{version}"
            place = f"/namespaces/{one['metadata']['namespace']}" if found.namespaced else ""
            path = f"{root}{place}/{found.plural}/{one['metadata']['name']}?fieldManager=t&fieldValidation=Strict"
            status, answer = await client.call("PATCH", path, one, media="application/apply-patch+yaml")
            assert status == 201, answer


@pytest.mark.parametrize("preset", EVERY)
def test_no_container_has_privileges_or_writes_to_its_root(preset: str) -> None:
    for name, pod in pods(control_plane(profile(preset))).items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["runAsUser"] not in {0, 1500}, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"], name
            assert not context["allowPrivilegeEscalation"], name
            assert context["capabilities"] == {"drop": ["ALL"]}, name


def test_only_who_talks_to_the_api_has_a_token_for_it_and_rules() -> None:
    manifests = control_plane(PRESETS["ha"])
    with_token = {name for name, pod in pods(manifests).items() if pod.get("automountServiceAccountToken", True)}
    assert with_token == {"meshlog-ingestor", "meshlog-ca"}
    bound = {one["subjects"][0]["name"] for one in manifests if one["kind"].endswith("RoleBinding")}
    assert bound == with_token


def test_no_rule_is_a_wildcard_and_only_the_ca_may_touch_secrets_at_home() -> None:
    for role in control_plane(PRESETS["ha"]):
        for rule in role.get("rules") or []:
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
            if "secrets" in rule["resources"]:
                assert role["kind"] == "Role"
                assert role["metadata"]["name"] == "meshlog-ca"
                assert rule["verbs"] == ["create"] or rule["resourceNames"] == ["meshlog-ca"]


def test_a_service_mounts_its_own_password_and_no_other() -> None:
    for name, pod in pods(control_plane(PRESETS["ha"])).items():
        mounted = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
        assert mounted == ["meshlog-nats-server" if name == "nats" else name.replace("meshlog-", "meshlog-nats-")]


def test_the_ha_preset_survives_a_node() -> None:
    manifests = control_plane(PRESETS["ha"])
    budgets = {one["metadata"]["name"] for one in manifests if one["kind"] == "PodDisruptionBudget"}
    assert budgets == {*(f"meshlog-{service}" for service in SERVICES), "nats"}
    workloads = {one["metadata"]["name"]: one for one in manifests if one["kind"] in {"Deployment", "StatefulSet"}}
    assert workloads["nats"]["spec"]["replicas"] == 3
    for service in SERVICES:
        pod = workloads[f"meshlog-{service}"]["spec"]["template"]["spec"]
        assert {one["topologyKey"] for one in pod["topologySpreadConstraints"]} == {
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
        }
        variables = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
        assert variables["MESHLOG_REPLICAS"] == "3"
        assert variables.get("MESHLOG_DURABLE") == ("true" if service in {"ingestor", "compiler", "ca"} else None)


def test_an_external_log_leaves_only_its_users_here() -> None:
    made = control_plane(chosen("ha", {"nats_url": "tls://nats.example:4222"}))
    assert not [one for one in made if one["metadata"]["name"] in {"nats", "nats-config", "nats-headless"}]
    assert log_secrets(chosen("ha", {"nats_url": "tls://nats.example:4222"})) == []
    pod = pods(made)["meshlog-compiler"]
    variables = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
    assert variables["MESHLOG_NATS_URL"] == "tls://nats.example:4222"


def test_secrets_are_new_each_time_and_their_certificate_names_the_servers() -> None:
    first, second = (
        {one["metadata"]["name"]: one["stringData"] for one in log_secrets(PRESETS["ha"])} for _ in range(2)
    )
    users = (*SERVICES, *PEOPLE)
    assert set(first) == {"meshlog-nats-server", *(f"meshlog-nats-{service}" for service in users)}
    passwords = [first[f"meshlog-nats-{service}"]["password"] for service in users]
    assert len({*passwords, *(second[f"meshlog-nats-{service}"]["password"] for service in users)}) == 2 * len(users)
    leaf = x509.load_pem_x509_certificate(first["meshlog-nats-server"]["tls.crt"].encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "nats.meshlog-system.svc.cluster.local" in names.get_values_for_type(x509.DNSName)
    assert "*.nats-headless.meshlog-system.svc.cluster.local" in names.get_values_for_type(x509.DNSName)


def test_no_password_is_in_any_other_object() -> None:
    secrets = log_secrets(PRESETS["ha"])
    rest = yaml.safe_dump(control_plane(PRESETS["ha"]))
    for secret in secrets:
        for key, value in secret["stringData"].items():
            if "crt" not in key:
                assert value not in rest
                assert base64.b64encode(value.encode()).decode() not in rest


@pytest.mark.parametrize(
    ("preset", "settings", "sentence"),
    [
        ("huge", {}, "there is no preset 'huge'"),
        ("ha", {"edgse": "3"}, "is no setting"),
        ("ha", {"edges": "many"}, "needs a whole number"),
        ("ha", {"nats_nodes": "2"}, "must be 1, 3 or 5"),
        ("ha", {"nats_nodes": "1"}, "durable: needs nats_nodes=3 or more, or durable=false"),
        ("ha", {"edges": "0"}, "at least one"),
        ("ha", {"edges": "9"}, "is less than `edges`"),
    ],
)
def test_a_mistake_is_a_sentence(preset: str, settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(BadInputError, match=sentence):
        chosen(preset, settings)


def test_the_ca_may_write_one_secret_of_a_gateway_if_it_is_named() -> None:
    def gateway(profile: Profile) -> list[Manifest]:
        return [one for one in control_plane(profile) if one["metadata"]["name"] == "meshlog-ca-gateway"]

    assert gateway(PRESETS["ha"]) == []
    role, binding = gateway(chosen("ha", {"gateway_secret": "ingress/mesh-client"}))
    assert {role["metadata"]["namespace"], binding["metadata"]["namespace"]} == {"ingress"}
    assert [(rule["resources"], rule["resourceNames"]) for rule in role["rules"]] == [(["secrets"], ["mesh-client"])]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "meshlog-ca", "namespace": "meshlog-system"}]


@pytest.mark.parametrize("preset", EVERY)
def test_an_edge_keeps_its_own_key_in_memory_and_its_snapshot_on_disk(preset: str) -> None:
    pod = pods(control_plane(profile(preset)))["meshlog-xds-edge"]
    (container,) = pod["containers"]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    places = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert volumes[places[variables["MESHLOG_KEY_DIR"]]]["emptyDir"]["medium"] == "Memory"
    assert volumes[places[variables["MESHLOG_STATE_DIR"]]]["emptyDir"] == {}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_server_of_the_log_refuses_before_its_disk_is_full(preset: str) -> None:
    """Below the claim by what a file system needs: NATS reads `10G` as decimal, Kubernetes reads `10Gi` as binary."""
    manifests = control_plane(PRESETS[preset])
    config = next(one["data"]["nats.conf"] for one in manifests if one["metadata"]["name"] == "nats-config")
    most = next(line.split()[1] for line in config.splitlines() if "max_file_store" in line)
    servers = next(one["spec"] for one in manifests if one["kind"] == "StatefulSet")
    size = servers["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
    assert (most[-1], size[-2:]) == ("G", "Gi")
    assert 0.9 < int(most[:-1]) * 10**9 / (int(size[:-2]) * 2**30) < 0.95


def test_a_rollout_waits_until_a_server_of_the_log_holds_everything_and_clients_do_not() -> None:
    manifests = control_plane(PRESETS["ha"])
    container = pods(manifests)["nats"]["containers"][0]
    # Without `js-server-only` and `js-enabled-only` streams and their leaders count.
    assert container["readinessProbe"]["httpGet"]["path"] == "/healthz"
    services = {one["metadata"]["name"]: one["spec"] for one in manifests if one["kind"] == "Service"}
    assert services["nats"]["publishNotReadyAddresses"]
    assert services["nats-headless"]["publishNotReadyAddresses"]


def test_a_server_of_the_log_whose_storage_went_off_is_started_anew_within_seconds() -> None:
    container = pods(control_plane(PRESETS["ha"]))["nats"]["containers"][0]
    alive, begins = container["livenessProbe"], container["startupProbe"]
    assert alive["httpGet"]["path"] == begins["httpGet"]["path"] == "/healthz?js-enabled-only=true"
    assert alive["periodSeconds"] * alive["failureThreshold"] <= 4
    # One that reads a large log is not taken for dead.
    assert begins["periodSeconds"] * begins["failureThreshold"] >= 300


def test_a_server_that_is_alone_is_started_anew_when_a_stream_cannot_be_written() -> None:
    """That its storage is on says nothing of a stream whose write failed."""
    embedded = msgspec.structs.replace(Profile(), nats_data="/log", nats_secured=True)
    for alone in (PRESETS["minimal"], embedded):
        container = pods(control_plane(alone))["nats"]["containers"][0]
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": 8222}
        assert "is full" in container["command"][2], "it waits for room"


def test_on_a_full_disk_a_server_of_the_log_waits_for_room_instead_of_ending_again_and_again(tmp_path: Path) -> None:
    """As the kubelet runs it, with another directory and another program; `/dev/full` is a disk without room."""
    command = pods(control_plane(PRESETS["ha"]))["nats"]["containers"][0]["command"]
    (tmp_path / ".room").symlink_to("/dev/full")
    script = command[2].replace("/data", str(tmp_path)).replace("exec nats-server", "exec echo runs")
    done = subprocess.run([*command[:2], script], capture_output=True, text=True, timeout=20, check=True)
    assert done.stderr.count("is full: nats-server starts as soon as there is room") == 1
    assert done.stdout == "runs --config /etc/nats/nats.conf\n"
    assert not list(tmp_path.iterdir())


def test_how_images_are_pulled_is_told_to_the_injector_as_well() -> None:
    """Sidecars come from the same registry."""
    private = msgspec.structs.replace(profile("ha"), pull_secret="regcred", pull_policy="Always")
    every = pods(control_plane(private))
    assert all(pod["imagePullSecrets"] == [{"name": "regcred"}] for pod in every.values())
    (injector,) = every["meshlog-injector"]["containers"]
    told = {one["name"]: one.get("value") for one in injector["env"]}
    assert (told["MESHLOG_PULL_SECRET"], told["MESHLOG_PULL_POLICY"]) == ("regcred", "Always")
