"""The webhooks themselves: two paths over HTTPS, and the one decision that takes time (a namespace not in the log yet).

One path gives pods their sidecar, the other judges policy before it is stored (`validation`).

The API server's selector let the pod through, so its namespace is a member there; the log may be a moment behind. We
wait for it a little, and then refuse with a sentence rather than start a pod without its sidecar: whoever creates
pods (a ReplicaSet, say) tries again.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from services.injector import review, validation
from services.injector.bench import Bench
from services.injector.configuration import Installation
from services.injector.decision import Namespace, decide, is_member
from services.injector.membership import Membership
from services.injector.patch import json_patch, with_sidecar
from shared.errors import BadInputError, MeshlogError
from shared.policy.budgets import DEFAULTS, Budgets

PATH = "/mutate-pod-creation"
VALIDATION_PATH = "/validate-policy"
MAX_BODY = 8 * 1024 * 1024
"""Bytes; the API server itself takes objects up to 3 MiB, and sends two at most."""

_log = logging.getLogger(__name__)


class Webhook:
    """Answers reviews. `observe(outcome, seconds)` is told of each."""

    def __init__(
        self,
        membership: Membership,
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
        self._bench = Bench()

    async def serve(self, host: str, port: int, context: ssl.SSLContext) -> tuple[web.AppRunner, int]:
        """Listen; the runner to be cleaned up, and the port."""
        application = web.Application(client_max_size=MAX_BODY)
        application.router.add_post(PATH, self._handle_mutation)
        application.router.add_post(VALIDATION_PATH, self._handle_validation)
        application.on_cleanup.append(self._close)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, host, port, ssl_context=context)
        await site.start()
        return runner, int(runner.addresses[0][1])

    async def _close(self, _application: web.Application) -> None:
        self._bench.close()

    async def answer(self, body: bytes) -> bytes:
        """The AdmissionReview that answers one about a pod. Raises `BadInputError` if `body` is none."""
        return await self._answer(body, self._mutate)

    async def judge(self, body: bytes) -> bytes:
        """The AdmissionReview that answers one about policy. Raises `BadInputError` if `body` is none."""
        return await self._answer(body, self._validate)

    async def _answer(self, body: bytes, decide_on: Callable[[review.Question], Awaitable[bytes]]) -> bytes:
        started = time.perf_counter()
        question = review.read(body)
        outcome = "passed"
        try:
            answer = await decide_on(question)
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

    async def _validate(self, question: review.Question) -> bytes:
        await self._bench.run(question.namespace, lambda: validation.check(question, self._budgets))
        return review.allow(question)

    async def _mutate(self, question: review.Question) -> bytes:
        if not question.creates_pod:
            return review.allow(question)
        pod = question.pod()
        namespace = await self._namespace(question.namespace)
        installation = self._installation
        decision = decide(
            pod,
            namespace,
            mesh_name=installation.mesh_name,
            mesh_namespace=installation.namespace,
        )
        if not decision.inject:
            return review.allow(question)
        after = with_sidecar(pod, installation, self._membership.mesh)
        return review.allow(question, json_patch(pod, after))

    async def _namespace(self, name: str) -> Namespace:
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
        return known is not None and (own or is_member(known, mesh_name=self._installation.mesh_name))

    async def _handle_mutation(self, request: web.Request) -> web.Response:
        return await _respond(request, self.answer)

    async def _handle_validation(self, request: web.Request) -> web.Response:
        return await _respond(request, self.judge)


async def _respond(request: web.Request, answer: Callable[[bytes], Awaitable[bytes]]) -> web.Response:
    try:
        told = await answer(await request.read())
    except web.HTTPRequestEntityTooLarge:
        return web.Response(status=400, text=f"the body is larger than {MAX_BODY} bytes\n")
    except BadInputError as error:
        return web.Response(status=400, text=f"{error}\n")
    return web.Response(body=told, content_type="application/json")
