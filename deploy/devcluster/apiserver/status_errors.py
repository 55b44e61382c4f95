"""Errors of the API, with the status codes, reasons, details and messages of Kubernetes.

Clients act on `reason` and `details`: kubectl retries a `Conflict` and prints each cause of an `Invalid`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from deploy.devcluster.cluster_api import KubeApiError


class StatusCause(msgspec.Struct, frozen=True):
    """An invalid field and the reason."""

    reason: str
    """`FieldValueRequired`, `FieldValueInvalid`, …"""
    field: str
    message: str
    """Without the field: `Required value`."""


class StatusError(KubeApiError):
    """A `KubeApiError` with the details of a `Status` object."""

    def __init__(
        self, status: int, reason: str, message: str, *, details: dict[str, Any] | None = None, wait: int | None = None
    ) -> None:
        super().__init__(status, reason, message)
        self.details = dict(details or {})
        if wait is not None:
            self.details["retryAfterSeconds"] = wait

    @property
    def body(self) -> dict[str, Any]:
        """The `Status` object on the wire."""
        return status_object(self.status, self.reason, self.sentence, self.details)


def status_object(code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
    """A `Status` with `status: Failure`."""
    status: dict[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
    }
    if details:
        status["details"] = details
    status["code"] = code
    return status


def body_of(error: KubeApiError) -> dict[str, Any]:
    """The `Status` of any `KubeApiError`."""
    if isinstance(error, StatusError):
        return error.body
    return status_object(error.status, error.reason, error.sentence)


def _details(resource: str, name: str, **more: Any) -> dict[str, Any]:
    plural, _, group = resource.partition(".")
    details: dict[str, Any] = {"name": name} if name else {}
    if group:
        details["group"] = group
    return {**details, "kind": plural, **more}


def bad_request(message: str) -> StatusError:
    """400: the request is malformed."""
    return StatusError(400, "BadRequest", message)


def not_found(resource: str, name: str) -> StatusError:
    """404: no such object."""
    return StatusError(404, "NotFound", f'{resource} "{name}" not found', details=_details(resource, name))


def no_such_path() -> StatusError:
    """404: no such resource or path."""
    return StatusError(404, "NotFound", "the server could not find the requested resource")


def method_not_allowed() -> StatusError:
    """405: the resource does not support the method."""
    return StatusError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def other_uid(wanted: str, found: str) -> str:
    """Message of a failed precondition on the UID."""
    return f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"


def already_exists(resource: str, name: str) -> StatusError:
    """409 on create."""
    return StatusError(409, "AlreadyExists", f'{resource} "{name}" already exists', details=_details(resource, name))


def conflict(resource: str, name: str, why: str = "") -> StatusError:
    """409: the object changed since the caller read it."""
    why = why or ("the object has been modified; please apply your changes to the latest version and try again")
    return StatusError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {resource} "{name}": {why}',
        details=_details(resource, name),
    )


def apply_conflict(resource: str, name: str, owners: Sequence[tuple[str, str]]) -> StatusError:
    """409 of a server-side apply; `owners` are the conflicting fields with their managers."""
    managers = list(dict.fromkeys(manager for _, manager in owners))
    one = len(owners) == 1
    by = "\n".join(
        f'conflict{"" if one else "s"} with "{manager}":'
        + (" " if one else "\n")
        + "\n".join(f"{'' if one else '- '}{field}" for field, owner in owners if owner == manager)
        for manager in managers
    )
    many = f"{len(owners)} conflict" + ("s" if len(owners) != 1 else "")
    causes = [
        {"reason": "FieldManagerConflict", "message": f'conflict with "{manager}"', "field": field}
        for field, manager in owners
    ]
    return StatusError(
        409,
        "Conflict",
        f"Apply failed with {many}: {by}",
        details=_details(resource, name, causes=causes),
    )


def invalid(kind: str, group: str, name: str, causes: Sequence[StatusCause]) -> StatusError:
    """422: the object is invalid."""
    title = f"{kind}.{group}" if group else kind
    sentences = [f"{cause.field}: {cause.message}" for cause in causes]
    given = sentences[0] if len(sentences) == 1 else f"[{', '.join(sentences)}]"
    details: dict[str, Any] = {"name": name} if name else {}
    if group:
        details["group"] = group
    details["kind"] = kind
    details["causes"] = [{"reason": one.reason, "message": one.message, "field": one.field} for one in causes]
    return StatusError(422, "Invalid", f'{title} "{name}" is invalid: {given}', details=details)


def forbidden(resource: str, name: str, why: str) -> StatusError:
    """403: a rule forbids the request."""
    about = f'{resource} "{name}"' if name else resource
    return StatusError(403, "Forbidden", f"{about} is forbidden: {why}", details=_details(resource, name))


def expired(message: str = "The resourceVersion for the provided watch is too old.") -> StatusError:
    """410: the requested resource version is no longer available."""
    return StatusError(410, "Expired", message)


def unauthorized() -> StatusError:
    """401: missing or invalid credentials."""
    return StatusError(401, "Unauthorized", "Unauthorized")


def internal(message: str) -> StatusError:
    """500, as Kubernetes words a failed call of a webhook."""
    return StatusError(
        500, "InternalError", f"Internal error occurred: {message}", details={"causes": [{"message": message}]}
    )


def required(field: str, detail: str = "") -> StatusCause:
    """A required field is missing."""
    return StatusCause("FieldValueRequired", field, f"Required value: {detail}" if detail else "Required value")


def wrong(field: str, value: Any, detail: str) -> StatusCause:
    """The value of a field is invalid."""
    return StatusCause("FieldValueInvalid", field, f"Invalid value: {shown(value)}: {detail}")


def unsupported(field: str, value: Any, supported: Sequence[Any]) -> StatusCause:
    """The value is none of the supported ones."""
    names = ", ".join(shown(one) for one in supported)
    return StatusCause("FieldValueNotSupported", field, f"Unsupported value: {shown(value)}: supported values: {names}")


def duplicate(field: str, value: Any) -> StatusCause:
    """An entry repeats a key that must be unique."""
    return StatusCause("FieldValueDuplicate", field, f"Duplicate value: {shown(value)}")


def shown(value: Any) -> str:
    """A value for a message, cut to about 250 characters: messages appear in headers, logs and terminals."""
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return text if len(text) <= 256 else f"{text[:250]} …"
