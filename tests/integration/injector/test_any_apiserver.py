"""The webhooks in front of any API server: what they make of pods is valid to it, and what they refuse is not stored.

The devcluster's, and a real one if `KUBEBUILDER_ASSETS` holds its binaries; nothing here may depend on which.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import yaml

from cli.kubernetes import kubeconfig as access
from cli.kubernetes.api_client import Api, Manifest, connect
from deploy.install.control_plane import Profile, webhook
from deploy.install.webhooks import validator
from services.injector.http.webhook import PATH, VALIDATION_PATH
from shared.errors import MeshlogError
from shared.projected_objects import ANNOTATION_SIDECAR, LABEL_MONITORED_BY
from tests.apiservers import KINDS, apiserver
from tests.integration.injector.policy import traffic_target
from tests.integration.injector.test_admission import Serving, serving
from tests.unit.injector.pods import pod
from tests.waiting import eventually

__all__ = ["serving"]

CRD = Path(__file__).parents[3] / "deploy" / "crds" / "traffictargets.access.smi-spec.io.yaml"
PODS = "/api/v1/namespaces/{}/pods"


@pytest.fixture(params=KINDS)
async def api(request: pytest.FixtureRequest, tmp_path: Path, serving: Serving) -> AsyncGenerator[Api]:
    """With the webhooks that the chart has, led to ours, and a member namespace."""
    async with apiserver(request.param, tmp_path) as kubeconfig, connect(access.read(kubeconfig)) as made:
        for name, labels in (("shop", {LABEL_MONITORED_BY: "meshlog"}), ("elsewhere", {})):
            metadata = {"name": name, "labels": labels}
            await made.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
            account = {"name": "web", "namespace": name}
            await made.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
        for configuration, path in ((webhook(Profile()), PATH), (validator(Profile()), VALIDATION_PATH)):
            for hook in configuration["webhooks"]:
                bundle = base64.b64encode(serving.authority.pem).decode()
                hook["clientConfig"] = {"url": serving.url.replace(PATH, path), "caBundle": bundle}
            await made.apply(configuration)
        yield made


def _pod(namespace: str, name: str = "web", **annotations: str) -> Manifest:
    made = pod(**annotations)
    made |= {"apiVersion": "v1", "kind": "Pod"}
    made["metadata"] = {**made["metadata"], "name": name, "namespace": namespace}
    return made


async def _hears(api: Api) -> None:
    """Webhooks take effect a moment after they are stored."""

    async def injected() -> bool:
        status, made = await api.request("POST", PODS.format("shop"), body=_pod("shop"), params={"dryRun": "All"})
        return status == 201 and ANNOTATION_SIDECAR in made["metadata"].get("annotations", {})

    await eventually(injected, within=30.0, what="the webhook is called")


async def test_pods_of_members_are_valid_with_their_sidecar_and_others_stay_as_they_are(api: Api) -> None:
    await _hears(api)
    for namespace, expected in (("shop", ["meshlog-init", "envoy", "prepare"]), ("elsewhere", ["prepare"])):
        status, stored = await api.request("POST", PODS.format(namespace), body=_pod(namespace))
        assert status == 201, stored
        assert [one["name"] for one in stored["spec"]["initContainers"]] == expected
    again = await api.get(f"{PODS.format('shop')}/web")
    envoy = again["spec"]["initContainers"][1]
    assert envoy["restartPolicy"] == "Always"
    assert envoy["startupProbe"]["httpGet"]["port"] == 15902


async def test_a_wish_that_is_neither_yes_nor_no_is_refused_with_our_sentence(api: Api) -> None:
    await _hears(api)
    bad = _pod("shop", **{"openservicemesh.io/sidecar-injection": "perhaps"})
    status, answer = await api.request("POST", PODS.format("shop"), body=bad)
    assert status == 403
    assert "use enabled or disabled" in answer["message"]


async def test_policy_that_cannot_be_compiled_is_refused_with_the_compilers_sentence(api: Api) -> None:
    await api.apply(yaml.safe_load(CRD.read_text()))

    async def refused() -> bool:
        try:
            await api.apply(traffic_target("other"))
        except MeshlogError as error:
            return "move it to namespace other" in str(error)
        return False

    await eventually(refused, within=30.0, what="the sentence is the compiler's")
    with pytest.raises(MeshlogError, match="needs spec, or destination, specs and sources"):
        await api.apply({key: value for key, value in traffic_target("shop").items() if key != "spec"})
    assert (await api.apply(traffic_target("shop"))).name == "one"
