"""The webhooks themselves: two paths, and the one decision that takes time (a namespace not in the log yet).

One path gives pods their sidecar, the other judges policy before it is stored (`validation`). Each does its work in a
thread of its own (`bench`), where a source that asks without end delays any other by one review.

The API server's selector let the pod through, so its namespace is a member there; the log may be a moment behind. We
wait for it a little, and then refuse with a sentence rather than start a pod without its sidecar: whoever creates
pods (a ReplicaSet, say) tries again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from services.injector.core import policy_validation, privileges, review
from services.injector.core.configuration import Installation
from services.injector.core.decision import NamespaceMeta, decide
from services.injector.core.patch import json_patch, unclaimed, warnings, with_sidecar
from services.injector.core.sidecar_containers import unused_images
from services.injector.http import fair_slots
from services.injector.http.request import Handler, HttpRequest
from services.injector.http.worker_thread import WorkerThread
from services.injector.log.namespace_follower import NamespaceFollower
from shared.errors import BadInputError, MeshlogError
from shared.membership import is_member
from shared.policy.budgets import DEFAULTS, Budgets
from shared.projected_objects import ANNOTATION_SIDECAR

PATH = "/mutate-pod-creation"
VALIDATION_PATH = "/validate-policy"
SMALL = 64 * 1024
"""Bytes of a review that the event loop reads itself, in less than it takes to ask a thread."""
PODS = fair_slots.SlotLimits(waiting=512, waiting_of_source=256, waiting_of_namespace=128)
POLICIES = fair_slots.SlotLimits(waiting=256, waiting_of_source=64, waiting_of_namespace=8)
"""What waits for the two threads; the API server has 200 writes under way at most, unless it is told otherwise."""

_log = logging.getLogger(__name__)


class Webhook:
    """Answers reviews. `observe(outcome, seconds)` is told of each."""

    def __init__(
        self,
        membership: NamespaceFollower,
        installation: Installation,
        *,
        patience: float = 2.0,
        observe: Callable[[str, float], None] = lambda _outcome, _seconds: None,
        budgets: Budgets = DEFAULTS,
    ) -> None:
        self._membership = membership
        self._installation = installation
        self._patience = patience
        self._observe = observe
        self._budgets = budgets
        self._pods = WorkerThread("pods", PODS)
        self._policies = WorkerThread("policies", POLICIES)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """What answers at each path."""
        return {
            PATH: lambda request: self.answer(request.body, request.source),
            VALIDATION_PATH: lambda request: self.judge(request.body, request.source),
        }

    @property
    def waiting(self) -> dict[str, int]:
        """Reviews that wait, by what they are about."""
        return {"pods": self._pods.waiting, "policies": self._policies.waiting}

    def close(self) -> None:
        """Take no more work."""
        self._pods.close()
        self._policies.close()

    async def answer(self, body: bytes, source: str = "") -> bytes:
        """The AdmissionReview that answers one about a pod. Raises `BadInputError` if `body` is none."""
        return await self._answer(self._pods, HttpRequest(source, body), self._mutate)

    async def judge(self, body: bytes, source: str = "") -> bytes:
        """The AdmissionReview that answers one about policy. Raises `BadInputError` if `body` is none."""
        return await self._answer(self._policies, HttpRequest(source, body), self._validate)

    async def _answer(
        self,
        bench: WorkerThread,
        request: HttpRequest,
        decide_on: Callable[[str, review.AdmissionRequest], Awaitable[bytes]],
    ) -> bytes:
        started = time.perf_counter()
        body = request.body
        if len(body) > SMALL:
            question = await bench.run(request.source, "", lambda: review.read(body))
        else:
            question = review.read(body)
        outcome = "passed"
        try:
            answer = await decide_on(request.source, question)
            outcome = "injected" if b'"patch"' in answer else "passed"
        except BadInputError as error:
            outcome = "refused"
            answer = review.refuse(question, error)
        except MeshlogError as error:
            outcome = "not yet"
            answer = review.refuse(question, error, status=503)
        except Exception as error:  # noqa: BLE001 (a bug must not become a broken connection: the user gets a sentence)
            _log.exception("a %s of namespace %s could not be reviewed", question.kind, question.namespace)
            outcome = "failed"
            told = MeshlogError("inject/failed", f"the object could not be reviewed ({type(error).__name__})")
            answer = review.refuse(question, told, status=503)
        self._observe(outcome, time.perf_counter() - started)
        return answer

    async def _validate(self, source: str, question: review.AdmissionRequest) -> bytes:
        check = policy_validation.check
        told = await self._policies.run(source, question.namespace, lambda: check(question, self._budgets))
        return review.allow(question, warnings=told)

    async def _mutate(self, source: str, question: review.AdmissionRequest) -> bytes:
        if question.adds_container:
            return await self._pods.run(source, question.namespace, lambda: self._joined(question))
        if not question.creates_pod:
            return review.allow(question)
        namespace = await self._namespace(question.namespace)
        return await self._pods.run(source, namespace.name, lambda: self._injected(question, namespace))

    def _injected(self, question: review.AdmissionRequest, namespace: NamespaceMeta) -> bytes:
        """The answer to a pod's review. Raises `BadInputError`."""
        pod = question.pod()
        installation = self._installation
        decision = decide(
            pod,
            namespace,
            mesh_name=installation.mesh_name,
            mesh_namespace=installation.namespace,
        )
        if not decision.inject:
            bare = unclaimed(pod)
            return review.allow(question, json_patch(pod, bare) if bare else None, warning=decision.warning)
        mesh = self._membership.mesh
        told = [*warnings(pod, installation), *unused_images(mesh)]
        after = with_sidecar(pod, installation, mesh)
        return review.allow(question, json_patch(pod, after), warnings=told)

    def _joined(self, question: review.AdmissionRequest) -> bytes:
        """The answer about an ephemeral container. Raises `BadInputError`."""
        pod = question.pod()
        if ANNOTATION_SIDECAR not in ((pod.get("metadata") or {}).get("annotations") or {}):
            return review.allow(question)
        told = privileges.check(pod["spec"], self._installation, fields=("ephemeralContainers",))
        return review.allow(question, warnings=told)

    async def _namespace(self, name: str) -> NamespaceMeta:
        try:
            async with asyncio.timeout(self._patience):
                while not self._is_settled(name):
                    await self._membership.changed()
        except TimeoutError:
            pass
        known = self._membership.namespaces.get(name)
        if known is None:
            raise MeshlogError(
                "inject/namespace-unknown",
                "the log does not have this namespace yet; try again in a moment",
                about=f"namespace {name}",
            )
        return known

    def _is_settled(self, name: str) -> bool:
        known = self._membership.namespaces.get(name)
        own = name == self._installation.namespace
        return known is not None and (own or is_member(known.labels, mesh_name=self._installation.mesh_name))
