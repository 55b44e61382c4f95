"""Pods of an older build, whose probe ports forward whatever they are asked, are found and named."""

from __future__ import annotations

from typing import Any, cast

import pytest

from cli.health import cluster_facts
from cli.health.checks import judged
from cli.health.facts import HealthFacts
from cli.health.finding import CheckResult
from cli.kubernetes.api_client import Api
from services.injector.core.patch import with_sidecar
from shared.meshconfig.pods import MeshSpec
from shared.projected_objects import LABEL_MONITORED_BY
from tests.unit.injector.pods import INSTALLATION, pod

OLDER = '{"match":{"prefix":"/meshlog/readiness/web/"},"route":{"cluster":"probe|readiness|web","prefix_rewrite":"/"}}'
"""A route as the older build wrote it."""


def injected(name: str, *, older: bool = False, native: bool = True, phase: str = "Running") -> dict[str, Any]:
    made = with_sidecar(pod(), INSTALLATION, MeshSpec())
    made["metadata"]["name"] = name
    made["status"] = {"phase": phase}
    proxy = made["spec"]["initContainers"][1]
    if older:
        proxy["args"][1] = f'{{"routes":[{OLDER}]}}'
    if not native:
        made["spec"]["containers"].append(made["spec"]["initContainers"].pop(1))
    return made


async def found(*pods: dict[str, Any]) -> CheckResult:
    class _Api:
        async def get(self, path: str, **_params: object) -> dict[str, Any]:
            member = {"metadata": {"name": "shop", "labels": {LABEL_MONITORED_BY: "meshlog"}}}
            return {"items": list(pods) if path.endswith("/pods") else [member]}

        async def request(self, *_arguments: object) -> tuple[int, dict[str, Any]]:
            return 404, {}

    facts = HealthFacts(cluster=await cluster_facts.read(cast("Api", _Api()), "meshlog-system", "meshlog"))
    return next(one for one in judged(facts) if one.check == "probe-ports")


@pytest.mark.parametrize("native", [True, False])
async def test_a_pod_that_an_older_build_injected_is_named_and_its_remedy(native: bool) -> None:  # noqa: FBT001
    (finding,) = (await found(injected("new"), injected("old", older=True, native=native))).findings
    assert finding.sentence.startswith("those of shop/old let any request")
    assert "restart" in finding.remedy
    assert "shop/new" not in finding.sentence


async def test_pods_of_this_build_and_pods_that_have_ended_are_fine() -> None:
    assert (
        await found(
            injected("new"), injected("old", older=True, phase="Succeeded"), {**pod(), "metadata": {"name": "bare"}}
        )
    ).state == "well"
