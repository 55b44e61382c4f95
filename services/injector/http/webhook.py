"""The webhooks: one path adds the sidecar to pods, the other validates policy before it is stored.

Each path works in a thread of its own (`worker_thread`), where a flood from one source delays any other source by one
review.

A review of a pod means that its namespace is a member for the API server; the log may lag behind. The webhook waits
briefly for the log. Then it refuses the pod instead of letting it start without a sidecar: the controller that creates
pods, such as a ReplicaSet, retries.
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
"""Largest review in bytes that the event loop decodes itself, because handing it to a thread would take longer."""
PODS = fair_slots.SlotLimits(waiting=512, waiting_of_source=256, waiting_of_namespace=128)
POLICIES = fair_slots.SlotLimits(waiting=256, waiting_of_source=64, waiting_of_namespace=8)
"""Limits of what waits for the two threads. By default the API server has at most 200 writes in flight."""

_log = logging.getLogger(__name__)


class Webhook:
    """Answers reviews. `observe(outcome, seconds)` is called after each."""

    def __init__(
        self,
        namespaces: NamespaceFollower,
        installation: Installation,
        *,
        patience: float = 2.0,
        observe: Callable[[str, float], None] = lambda _outcome, _seconds: None,
        budgets: Budgets = DEFAULTS,
    ) -> None:
        self._namespaces = namespaces
        self._installation = installation
        self._patience = patience
        self._observe = observe
        self._budgets = budgets
        self._pods = WorkerThread("pods", PODS)
        self._policies = WorkerThread("policies", POLICIES)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """Path → its handler."""
        return {
            PATH: lambda request: self.answer(request.body, request.source),
            VALIDATION_PATH: lambda request: self.judge(request.body, request.source),
        }

    @property
    def waiting(self) -> dict[str, int]:
        """Kind of review → number of reviews that wait."""
        return {"pods": self._pods.waiting, "policies": self._policies.waiting}

    def close(self) -> None:
        """Accept no more work."""
        self._pods.close()
        self._policies.close()

    async def answer(self, body: bytes, source: str = "") -> bytes:
        """Answer the AdmissionReview of a pod. Raises `BadInputError` if `body` is no AdmissionReview."""
        return await self._answer(self._pods, HttpRequest(source, body), self._mutate)

    async def judge(self, body: bytes, source: str = "") -> bytes:
        """Answer the AdmissionReview of a policy object. Raises `BadInputError` if `body` is no AdmissionReview."""
        return await self._answer(self._policies, HttpRequest(source, body), self._validate)

    async def _answer(
        self,
        thread: WorkerThread,
        request: HttpRequest,
        decide_on: Callable[[str, review.AdmissionRequest], Awaitable[bytes]],
    ) -> bytes:
        started = time.perf_counter()
        body = request.body
        if len(body) > SMALL:
            question = await thread.run(request.source, "", lambda: review.read(body))
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
            failure = MeshlogError("inject/failed", f"the object could not be reviewed ({type(error).__name__})")
            answer = review.refuse(question, failure, status=503)
        self._observe(outcome, time.perf_counter() - started)
        return answer

    async def _validate(self, source: str, question: review.AdmissionRequest) -> bytes:
        check = policy_validation.check
        found = await self._policies.run(source, question.namespace, lambda: check(question, self._budgets))
        return review.allow(question, warnings=found)

    async def _mutate(self, source: str, question: review.AdmissionRequest) -> bytes:
        if question.adds_container:
            return await self._pods.run(source, question.namespace, lambda: self._joined(question))
        if not question.creates_pod:
            return review.allow(question)
        namespace = await self._namespace(question.namespace)
        return await self._pods.run(source, namespace.name, lambda: self._injected(question, namespace))

    def _injected(self, question: review.AdmissionRequest, namespace: NamespaceMeta) -> bytes:
        """Return the answer to the review of a new pod. Raises `BadInputError`."""
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
        mesh = self._namespaces.mesh
        found = [*warnings(pod, installation), *unused_images(mesh)]
        after = with_sidecar(pod, installation, mesh)
        return review.allow(question, json_patch(pod, after), warnings=found)

    def _joined(self, question: review.AdmissionRequest) -> bytes:
        """Return the answer to the review of an ephemeral container. Raises `BadInputError`."""
        pod = question.pod()
        if ANNOTATION_SIDECAR not in ((pod.get("metadata") or {}).get("annotations") or {}):
            return review.allow(question)
        found = privileges.check(pod["spec"], self._installation, fields=("ephemeralContainers",))
        return review.allow(question, warnings=found)

    async def _namespace(self, name: str) -> NamespaceMeta:
        try:
            async with asyncio.timeout(self._patience):
                while not self._is_settled(name):
                    await self._namespaces.changed()
        except TimeoutError:
            pass
        known = self._namespaces.namespaces.get(name)
        if known is None:
            raise MeshlogError(
                "inject/namespace-unknown",
                "the log does not have this namespace yet; try again in a moment",
                about=f"namespace {name}",
            )
        return known

    def _is_settled(self, name: str) -> bool:
        known = self._namespaces.namespaces.get(name)
        own = name == self._installation.namespace
        return known is not None and (own or is_member(known.labels, mesh_name=self._installation.mesh_name))
