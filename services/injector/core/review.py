"""Decodes and answers the AdmissionReviews of the API server.

An answer is always a valid AdmissionReview with the uid of its request, whatever the object in it. Invalid content is
refused with a sentence and never fails the webhook, because a failing webhook stops every pod of the namespace.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from shared.errors import BadInputError, MeshlogError
from shared.io.decoding import UndecodableError, decode, decode_by

MAX_POD = 1_572_864
"""Largest pod in bytes of JSON: what etcd stores at most. It bounds the patch, too, which repeats lists of the pod."""

_MOST_WARNINGS = 10

_VERSIONS = ("admission.k8s.io/v1", "admission.k8s.io/v1beta1")


class _GroupVersionKind(msgspec.Struct, frozen=True):
    kind: str = ""
    group: str = ""
    version: str = ""


class _ReviewRequest(msgspec.Struct, rename="camel"):
    uid: str
    kind: _GroupVersionKind = _GroupVersionKind()
    namespace: str = ""
    name: str = ""
    operation: str = ""
    dry_run: bool | None = None
    sub_resource: str = ""
    object: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    old_object: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _AdmissionReview(msgspec.Struct, rename="camel"):
    request: _ReviewRequest
    api_version: str = _VERSIONS[0]
    kind: str = ""


class _PortShape(msgspec.Struct, rename="camel"):
    container_port: int
    name: str | None = None
    protocol: str | None = None


class _ProbeShape(msgspec.Struct, rename="camel"):
    http_get: dict[str, Any] | None = None
    tcp_socket: dict[str, Any] | None = None
    grpc: dict[str, Any] | None = None
    timeout_seconds: int | None = None
    period_seconds: int | None = None


class _ContainerShape(msgspec.Struct, rename="camel"):
    name: str
    ports: list[_PortShape] | None = None
    liveness_probe: _ProbeShape | None = None
    readiness_probe: _ProbeShape | None = None
    startup_probe: _ProbeShape | None = None


class _VolumeShape(msgspec.Struct):
    name: str


class _MetaShape(msgspec.Struct):
    annotations: dict[str, str] | None = None


class _PodSpecShape(msgspec.Struct, rename="camel"):
    containers: list[_ContainerShape]
    init_containers: list[_ContainerShape] | None = None
    volumes: list[_VolumeShape] | None = None


class _PodShape(msgspec.Struct):
    """The types that the injector relies on. The API server validates the rest later."""

    spec: _PodSpecShape
    metadata: _MetaShape | None = None


class AdmissionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The request of an AdmissionReview."""

    api_version: str
    """API version of the review itself."""
    uid: str
    namespace: str
    name: str
    """Empty if the API server generates one."""
    kind: str
    group: str
    version: str
    operation: str
    sub_resource: str
    object: msgspec.Raw | None
    """The object to be stored, as JSON; `None` for a deletion."""
    before: msgspec.Raw | None
    """The stored object, for an update or a deletion."""

    @property
    def creates_pod(self) -> bool:
        """Whether it creates a pod."""
        about_pod = self.kind == "Pod" and not self.group and not self.sub_resource
        return about_pod and self.operation in ("", "CREATE") and self.object is not None

    @property
    def adds_container(self) -> bool:
        """Whether it adds an ephemeral container to a running pod."""
        about_pod = self.kind == "Pod" and not self.group and self.sub_resource == "ephemeralcontainers"
        return about_pod and self.object is not None

    def pod(self) -> dict[str, Any]:
        """Decode the pod. Raises `BadInputError` if the object is no pod, or too large."""
        assert self.object is not None
        size = memoryview(self.object).nbytes
        if size > MAX_POD:
            raise BadInputError("review/pod", f"has {size} bytes; at most {MAX_POD} can be reviewed", about="the pod")
        try:
            decode(_PodShape, self.object)
            return decode(dict[str, Any], self.object)
        except UndecodableError as error:
            raise BadInputError("review/pod", f"is no pod ({error})", about="the object") from error


_DECODER = msgspec.json.Decoder(_AdmissionReview)


def read(body: bytes) -> AdmissionRequest:
    """Decode the AdmissionReview in a body. Raises `BadInputError` if it is none."""
    try:
        review = decode_by(_DECODER, body)
    except UndecodableError as error:
        raise BadInputError("review/malformed", "the body is no AdmissionReview") from error
    request = review.request
    if review.api_version not in _VERSIONS or not request.uid:
        raise BadInputError("review/malformed", f"{review.api_version[:80]!r} is no AdmissionReview with a request")
    return AdmissionRequest(
        api_version=review.api_version,
        uid=request.uid,
        namespace=request.namespace,
        name=request.name,
        kind=request.kind.kind,
        group=request.kind.group,
        version=request.kind.version,
        operation=request.operation,
        sub_resource=request.sub_resource,
        object=_given(request.object),
        before=_given(request.old_object),
    )


def allow(
    question: AdmissionRequest,
    patch: list[dict[str, Any]] | None = None,
    *,
    warning: str = "",
    warnings: Sequence[str] = (),
) -> bytes:
    """Return the answer that allows the object, changed by `patch`."""
    response: dict[str, Any] = {"uid": question.uid, "allowed": True}
    if patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(msgspec.json.encode(patch)).decode()
    shown = [*([warning] if warning else []), *warnings][:_MOST_WARNINGS]
    if shown:
        response["warnings"] = [one[:256] for one in shown]
    return _answer(question, response)


def refuse(question: AdmissionRequest, error: MeshlogError, *, status: int = 403) -> bytes:
    """Return the answer that refuses the object with the error's sentence."""
    error_status = {
        "code": status,
        "message": f"meshlog: {error}",
        "reason": "Forbidden" if status == 403 else "ServiceUnavailable",
    }
    return _answer(question, {"uid": question.uid, "allowed": False, "status": error_status})


def _answer(question: AdmissionRequest, response: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"apiVersion": question.api_version, "kind": "AdmissionReview", "response": response})


def _given(value: msgspec.Raw | msgspec.UnsetType) -> msgspec.Raw | None:
    return None if value is msgspec.UNSET or bytes(value) == b"null" else value
