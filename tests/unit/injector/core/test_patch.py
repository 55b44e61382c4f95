"""The pod with its sidecar: complete, stable under repetition, and the author's own pod still in it."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest

from services.injector.core.patch import json_patch, with_sidecar, without_sidecar
from shared.errors import BadInputError
from shared.meshconfig.pods import MeshSpec, Sidecar, read_mesh_spec
from shared.projected_objects import ANNOTATION_SIDECAR
from tests.unit.injector.pods import INSTALLATION, pod


def injected(made: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    installation = msgspec.structs.replace(INSTALLATION, **changes)
    return with_sidecar(made or pod(), installation, read_mesh_spec(spec or {}))


def container(made: dict[str, Any], name: str) -> dict[str, Any]:
    every = [*made["spec"].get("initContainers", []), *made["spec"]["containers"]]
    return next(each for each in every if each["name"] == name)


def bootstrap_of(made: dict[str, Any]) -> dict[str, Any]:
    arguments = container(made, "envoy")["args"]
    return json.loads(arguments[arguments.index("--config-yaml") + 1].replace("$$(", "$("))


def applied(made: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    """RFC 6902, as far as it is used."""
    result = copy.deepcopy(made)
    for operation in operations:
        *parents, last = operation["path"].strip("/").split("/")
        target = result
        for parent in parents:
            target = target[parent]
        assert (last in target) == (operation["op"] == "replace")
        target[last] = operation["value"]
    return result


def test_the_redirect_comes_first_then_the_proxy_then_the_pods_own_containers() -> None:
    spec = injected()["spec"]
    assert [each["name"] for each in spec["initContainers"]] == ["meshlog-init", "envoy", "prepare"]
    assert [each["name"] for each in spec["containers"]] == ["web"]
    assert container(injected(), "envoy")["restartPolicy"] == "Always"


def test_without_native_sidecars_the_proxy_is_an_ordinary_container() -> None:
    made = injected(native_sidecars=False)
    assert [each["name"] for each in made["spec"]["initContainers"]] == ["prepare", "meshlog-init"]
    assert [each["name"] for each in made["spec"]["containers"]] == ["envoy", "web"]
    assert "restartPolicy" not in container(made, "envoy")


def test_without_native_sidecars_the_application_is_held_by_a_hook_if_the_image_has_a_shell() -> None:
    def hook(image: str) -> Any:
        changes = msgspec.structs.replace(INSTALLATION, native_sidecars=False, envoy_image=image)
        made = with_sidecar(pod(), changes, MeshSpec())
        return container(made, "envoy")["image"], container(made, "envoy").get("lifecycle")

    image, lifecycle = hook("envoyproxy/envoy:distroless-v1.36.2")
    assert image == "envoyproxy/envoy:v1.36.2"
    assert "/meshlog/ready" in lifecycle["postStart"]["exec"]["command"][-1]
    named = MeshSpec(sidecar=Sidecar(envoy_image="mirror/distroless:1"))
    classic = msgspec.structs.replace(INSTALLATION, native_sidecars=False)
    assert "lifecycle" not in container(with_sidecar(pod(), classic, named), "envoy")


def test_the_application_waits_for_the_proxys_configuration() -> None:
    assert container(injected(), "envoy")["startupProbe"]["httpGet"] == {"path": "/meshlog/ready", "port": 15902}


def test_67_the_patch_makes_exactly_this_pod_and_a_second_one_changes_nothing() -> None:
    before = pod()
    untouched = copy.deepcopy(before)
    after = injected(before)
    assert before == untouched
    assert applied(before, json_patch(before, after)) == after
    assert json_patch(after, injected(after)) == []


def test_taking_the_sidecar_out_gives_the_pod_back() -> None:
    before = pod(**{"example.com/own": "kept"})
    assert without_sidecar(injected(before)) == before


def test_a_container_that_another_webhook_added_later_has_its_probes_redirected_too() -> None:
    once = injected()
    late = {"name": "late", "livenessProbe": {"httpGet": {"path": "/x", "port": 9000}}}
    once["spec"]["containers"].append(late)
    twice = injected(once)
    assert container(twice, "late")["livenessProbe"]["httpGet"]["port"] == 15901
    assert container(twice, "web") == container(injected(), "web")
    assert [each["name"] for each in twice["spec"]["initContainers"]] == ["meshlog-init", "envoy", "prepare"]


def test_an_http_probe_keeps_path_query_headers_and_thresholds() -> None:
    probe = container(injected(), "web")["readinessProbe"]
    assert probe == {
        "httpGet": {
            "path": "/meshlog/readiness/web",
            "port": 15902,
            "scheme": "HTTP",
            "httpHeaders": [{"name": "Host", "value": "web"}],
        },
        "periodSeconds": 3,
        "timeoutSeconds": 4,
        "failureThreshold": 7,
    }
    clusters = {each["name"]: each for each in bootstrap_of(injected())["static_resources"]["clusters"]}
    endpoint = clusters["probe|readiness|web"]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 8080}


def bootstrap_with(**action: Any) -> dict[str, Any]:
    made = pod()
    made["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"port": 8080} | action}
    return bootstrap_of(injected(made))


def test_the_kubelet_replaces_the_pods_address_and_nothing_that_the_author_wrote() -> None:
    """It reads `$(NAME)` and `$$` in arguments, whatever part of the pod they come from."""
    made = pod()
    header = {"name": "x", "value": "$(POD_IP) $$(POD_IP) \\u007f \\u0024é"}
    action = {"path": "/$$/$(POD_IP)", "port": 80, "httpHeaders": [header]}
    made["spec"]["containers"][0]["readinessProbe"] = {"httpGet": action}
    arguments = container(injected(made), "envoy")["args"]
    config = arguments[arguments.index("--config-yaml") + 1]
    listeners, probes = 2, 1
    assert config.count("$(HOST_IP)") == listeners
    assert config.count("$(POD_IP)") == 4 * listeners + probes
    assert config.count("$") == 5 * listeners + probes
    route = _routes(json.loads(config))[-1]
    assert route["route"]["prefix_rewrite"] == "/$$/$(POD_IP)"
    assert route["route"]["host_rewrite_literal"] == "$(POD_IP):80"
    assert route["request_headers_to_add"][0]["header"]["value"] == header["value"]


def _routes(config: dict[str, Any]) -> list[dict[str, Any]]:
    (listener,) = [each for each in config["static_resources"]["listeners"] if each["name"] == "probes-readiness"]
    (*_, manager) = listener["filter_chains"][0]["filters"]
    return manager["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ({"path": "/" + "a" * 5000}, "path of 5001 bytes"),
        ({"httpHeaders": [{"name": "a b", "value": ""}]}, "'a b': it is none"),
        ({"httpHeaders": [{"name": ":path", "value": "/x"}]}, "':path': it is none"),
        ({"httpHeaders": [{"value": "x"}]}, "'None': it is none"),
        ({"httpHeaders": [7]}, "it is none"),
        ({"httpHeaders": [{"name": "x", "value": "a\r\nHost: b"}]}, "control characters in header x"),
        ({"httpHeaders": [{"name": "x", "value": "\x7f"}]}, "control characters in header x"),
        ({"httpHeaders": [{"name": "x", "value": "a" * 9000}]}, "8192 bytes"),
        ({"httpHeaders": [{"name": "x", "value": "a"}] * 33}, "more than 32 headers"),
    ],
)
def test_an_http_probe_that_the_proxy_cannot_send_is_refused(action: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        bootstrap_with(**action)


def test_probes_that_do_not_fit_into_the_proxys_command_are_refused_with_their_size() -> None:
    """Linux takes 128 KiB for one argument; the kubelet could not start the proxy at all."""
    made = pod()
    for number in range(60):
        many = {"httpGet": {"path": "/" + "a" * 4000, "port": 80}}
        made["spec"]["containers"].append({"name": f"c{number}", "livenessProbe": many})
    with pytest.raises(BadInputError, match="bytes of the proxy's configuration"):
        injected(made)


def test_the_proxy_of_thirty_containers_with_three_probes_each_fits() -> None:
    made = pod()
    probes = {
        f"{phase}Probe": {"httpGet": {"path": f"/actuator/health/{phase}", "port": 8080}}
        for phase in ("liveness", "readiness", "startup")
    }
    made["spec"]["containers"] = [{"name": f"container-{number}", **probes} for number in range(30)]
    assert len(container(injected(made), "envoy")["args"][1]) < 120_000


def test_a_pod_that_an_older_build_gave_probes_below_a_prefix_gets_todays() -> None:
    """For example `kubectl debug --copy-to` of a running pod."""
    older = injected()
    probe = container(older, "web")["readinessProbe"]["httpGet"]
    probe["path"] += "/ready?deep=1"
    assert container(injected(older), "web") == container(injected(), "web")


def test_no_route_of_the_bootstrap_leads_to_the_proxys_admin() -> None:
    clusters = bootstrap_of(injected())["static_resources"]["clusters"]
    addresses = [
        place["endpoint"]["address"]
        for cluster in clusters
        for endpoints in cluster["load_assignment"]["endpoints"]
        for place in endpoints["lb_endpoints"]
    ]
    inside = [each for each in addresses if "envoy_internal_address" in each]
    assert inside == [{"envoy_internal_address": {"server_listener_name": "denied"}}]
    assert 15000 not in [each["socket_address"]["port_value"] for each in addresses if each not in inside]


def test_a_tcp_probe_asks_for_what_the_proxy_found() -> None:
    assert container(injected(), "web")["livenessProbe"] == {
        "httpGet": {"path": "/meshlog/liveness/web", "port": 15901, "scheme": "HTTP"}
    }


def test_an_exec_probe_and_one_that_names_a_host_are_left_alone() -> None:
    assert container(injected(), "web")["startupProbe"] == {"exec": {"command": ["true"]}}
    made = pod()
    elsewhere = {"httpGet": {"host": "192.0.2.1", "path": "/", "port": 80}}
    made["spec"]["containers"][0]["readinessProbe"] = elsewhere
    assert container(injected(made), "web")["readinessProbe"] == elsewhere


def listening(pod: dict[str, Any]) -> list[int]:
    """Ports of the pod that the bootstrap listens on."""
    listeners = bootstrap_of(pod)["static_resources"]["listeners"]
    return [each["address"]["socket_address"]["port_value"] for each in listeners if "address" in each]


def test_only_listeners_that_are_needed_exist_and_readiness_always() -> None:
    made = pod()
    for phase in ("liveness", "readiness"):
        del made["spec"]["containers"][0][f"{phase}Probe"]
    assert listening(injected(made)) == [15902]


def test_the_redirect_leaves_out_exactly_the_ports_of_these_listeners() -> None:
    for phases in ((), ("liveness",), ("readiness",), ("liveness", "readiness", "startup")):
        made = pod()
        probes = {f"{phase}Probe": {"httpGet": {"port": 80}} for phase in phases}
        made["spec"]["containers"] = [{"name": "web", **probes}]
        after = injected(made)
        arguments = container(after, "meshlog-init")["args"]
        assert arguments[arguments.index("--probe-ports") + 1] == ",".join(map(str, sorted(listening(after))))


def test_a_probe_of_a_port_name_that_does_not_exist_is_refused() -> None:
    made = pod()
    made["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"] = "grpc"
    with pytest.raises(BadInputError, match="'grpc', which the container does not have"):
        injected(made)


def test_the_token_is_projected_with_the_meshs_audience_and_no_secret_is_made() -> None:
    (volume,) = [each for each in injected()["spec"]["volumes"] if each["name"] == "meshlog-identity"]
    sources = volume["projected"]["sources"]
    assert sources[0] == {"serviceAccountToken": {"audience": "meshlog", "expirationSeconds": 3600, "path": "token"}}
    assert sources[1]["configMap"]["name"] == "meshlog-trust-bundle"
    fields = [item["fieldRef"]["fieldPath"] for item in sources[2]["downwardAPI"]["items"]]
    annotations = injected()["metadata"]["annotations"]
    assert [json.loads(annotations[field[len("metadata.annotations['") : -2]])["resources"] for field in fields]


def test_the_build_is_named_on_the_pod() -> None:
    assert injected()["metadata"]["annotations"][ANNOTATION_SIDECAR] == "0.1.0"


def test_by_user_id_the_proxy_runs_as_1500_and_by_mark_it_marks_its_packets() -> None:
    by_uid = injected()
    assert container(by_uid, "envoy")["securityContext"]["runAsUser"] == 1500
    assert container(by_uid, "meshlog-init")["args"] == [
        "sidecar-init",
        "--proxy-uid",
        "1500",
        "--probe-ports",
        "15901,15902",
    ]
    assert "cluster_manager" not in bootstrap_of(by_uid)
    by_mark = injected(proxy_mark=1337)
    assert "runAsUser" not in container(by_mark, "envoy")["securityContext"]
    assert container(by_mark, "meshlog-init")["args"] == [
        "sidecar-init",
        "--proxy-mark",
        "1337",
        "--probe-ports",
        "15901,15902",
    ]
    (option,) = bootstrap_of(by_mark)["cluster_manager"]["upstream_bind_config"]["socket_options"]
    assert option["int_value"] == 1337


def test_the_mesh_config_is_heeded() -> None:
    made = injected(
        pod(**{"openservicemesh.io/outbound-port-exclusion-list": "6379, 443"}),
        {
            "sidecar": {
                "logLevel": "debug",
                "envoyImage": "own:2",
                "enablePrivilegedInitContainer": True,
                "localProxyMode": "PodIP",
                "resources": {"limits": {"cpu": "1"}},
            },
            "traffic": {"outboundPortExclusionList": [443, 5432], "outboundIPRangeExclusionList": ["10.1.2.3/8"]},
        },
    )
    proxy, init = container(made, "envoy"), container(made, "meshlog-init")
    assert proxy["image"] == "own:2"
    assert proxy["resources"] == {"limits": {"cpu": "1"}}
    assert proxy["args"][proxy["args"].index("--log-level") + 1] == "debug"
    assert init["securityContext"]["privileged"] is True
    assert init["args"][5:] == [
        "--exclude-outbound-cidrs",
        "10.0.0.0/8",
        "--exclude-outbound-ports",
        "443,5432,6379",
        "--local-proxy-ip",
        "$(POD_IP)",
    ]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("outbound-ip-range-exclusion-list", "10.0.0.0/33"),
        ("outbound-ip-range-inclusion-list", "here"),
        ("outbound-port-exclusion-list", "0"),
        ("inbound-port-exclusion-list", "80,65536"),
        ("inbound-port-exclusion-list", "http"),
    ],
)
def test_a_bad_exclusion_is_refused_and_named(annotation: str, value: str) -> None:
    with pytest.raises(BadInputError, match=annotation):
        injected(pod(**{f"openservicemesh.io/{annotation}": value}))


@pytest.mark.parametrize("name", ["envoy", "meshlog-init"])
def test_a_container_with_a_name_of_ours_is_refused(name: str) -> None:
    made = pod()
    made["spec"]["containers"].append({"name": name})
    with pytest.raises(BadInputError, match="rename it"):
        injected(made)


@pytest.mark.parametrize("kept", ["", "[]", "{", '{"web":7}', '{"web":{"readinessProbe":"x"}}'])
def test_nonsense_in_our_own_annotations_does_not_hurt(kept: str) -> None:
    forged = pod(**{ANNOTATION_SIDECAR: "me", "sidecar.meshlog.io/probes": kept})
    assert container(injected(forged), "web") == container(injected(), "web")


def test_without_a_mesh_config_the_defaults_hold() -> None:
    assert read_mesh_spec({}) == MeshSpec()
    assert read_mesh_spec({"sidecar": None, "unknown": 1}) == MeshSpec()


@pytest.mark.parametrize(
    "spec", [{"sidecar": 7}, {"traffic": {"outboundPortExclusionList": ["x"]}}, {"sidecar": {"logLevel": "loud"}}]
)
def test_a_mesh_config_that_cannot_be_used_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match="MeshConfig"):
        read_mesh_spec(spec)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (None, [{"name": "regcred"}]),
        ([{"name": "mine"}], [{"name": "mine"}, {"name": "regcred"}]),
        ([{"name": "regcred"}], [{"name": "regcred"}]),
    ],
)
def test_the_registrys_secret_is_named_in_the_pod_once(
    own: list[dict[str, str]] | None, expected: list[dict[str, str]]
) -> None:
    private = msgspec.structs.replace(INSTALLATION, pull_secret="regcred", pull_policy="Always")
    made = pod()
    if own is not None:
        made["spec"]["imagePullSecrets"] = own
    once = with_sidecar(made, private, MeshSpec())
    assert once["spec"]["imagePullSecrets"] == expected
    assert with_sidecar(once, private, MeshSpec())["spec"]["imagePullSecrets"] == expected
    paths = {each["path"] for each in json_patch(made, once)}
    assert ("/spec/imagePullSecrets" in paths) is (own != expected)
    assert {container(once, name)["imagePullPolicy"] for name in ("envoy", "meshlog-init")} == {"Always"}
    assert "imagePullSecrets" not in with_sidecar(pod(), INSTALLATION, MeshSpec())["spec"]
