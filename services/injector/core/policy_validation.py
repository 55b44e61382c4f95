"""Validates policy objects before they are stored: refuses those that a consumer would leave out, with its sentence.

Consumers are the compiler; for a MeshConfig also the injector and the CA; for a MeshRootCertificate the CA. An object
that has no effect, or probably not the intended one, is allowed with warnings.

An object is validated by itself. The objects that it refers to may be applied later, in any order, so the compiler
reports missing references in the object's status. An update that does not change the specification is always allowed,
so that objects older than this webhook can be labelled and deleted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from services.injector.core.review import AdmissionRequest
from shared.errors import BadInputError
from shared.io.decoding import UndecodableError
from shared.meshconfig import root_certificate
from shared.meshconfig.spec_problems import doubts
from shared.names import MESH_CONFIG
from shared.policy import support_matrix
from shared.policy.budgets import DEFAULTS, Budgets
from shared.policy.decode import POLICY_KINDS, decode
from shared.policy.errors import PolicyError
from shared.policy.model import MeshConfig
from shared.policy.stored_form import read_policy
from shared.projected_objects import PolicyObject
from shared.records.unreadable import why

_READ = POLICY_KINDS | {"MeshRootCertificate"}
"""Kinds of which an unreadable object is refused."""
_SHOWN = 5
"""Mistakes of one object that a refusal names at most."""

GROUPS = frozenset(
    {
        "access.smi-spec.io",
        "config.openservicemesh.io",
        "policy.openservicemesh.io",
        "specs.smi-spec.io",
        "split.smi-spec.io",
    }
)
"""API groups of the kinds that are validated."""


def check(question: AdmissionRequest, budgets: Budgets = DEFAULTS) -> list[str]:
    """Return warnings about the object. Raises `BadInputError` if a consumer would leave it out."""
    if question.sub_resource or question.group not in GROUPS:
        return []
    if question.operation == "DELETE":
        return _deleted(question)
    if question.object is None or question.kind not in support_matrix.KINDS:
        return []
    try:
        policy = read_policy(question.object)
    except UndecodableError as error:
        if question.kind not in _READ:
            return []
        raise BadInputError(
            "object/unreadable", f"cannot be read as a {question.kind} ({why(error)})", about=question.kind
        ) from error
    if _before(question) == policy.spec:
        return []
    if question.kind == "MeshRootCertificate":
        _judge_root(question, policy)
    elif question.kind in POLICY_KINDS:
        _judge(question, policy, budgets)
    return [*_warnings(question, policy)]


def _judge(question: AdmissionRequest, policy: PolicyObject, budgets: Budgets) -> None:
    name = policy.metadata.name or "(no name yet)"
    # The namespace of an object may be given by the request's path only.
    if not policy.metadata.namespace:
        policy = msgspec.structs.replace(
            policy, metadata=msgspec.structs.replace(policy.metadata, namespace=question.namespace)
        )
    about = f"{question.kind} {question.namespace}/{name}"
    try:
        found = decode(question.kind, f"{question.group}/{question.version}", policy, budgets)
    except PolicyError as error:
        raise BadInputError(error.code, error.sentence, about=about) from error
    if isinstance(found, MeshConfig) and found.problems:
        code, sentence = found.problems[0]
        raise BadInputError(code, sentence.partition("; until it is mended")[0], about=about)


def _judge_root(question: AdmissionRequest, policy: PolicyObject) -> None:
    """Raise `BadInputError` with all mistakes of a root at once: roots are created seldom, and cannot be tried."""
    found = root_certificate.problems(policy.spec)
    if found:
        about = f"MeshRootCertificate {question.namespace}/{policy.metadata.name}"
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise BadInputError(found[0][0], "; ".join(sentence for _, sentence in found[:_SHOWN]) + more, about=about)


def _warnings(question: AdmissionRequest, policy: PolicyObject) -> Iterator[str]:
    about = f"{question.kind} {question.namespace}/{policy.metadata.name}"
    if unsupported := support_matrix.sentence(support_matrix.findings(question.kind, policy.spec)):
        yield f"{about}: {unsupported}"
    if question.kind == "MeshRootCertificate":
        if (before := _before(question)) and (changed := root_certificate.changed(before, policy.spec)):
            yield f"{about}: {changed}"
        for doubt in root_certificate.doubts(policy.spec, question.namespace):
            yield f"{about}: {doubt}"
    if question.kind != "MeshConfig":
        return
    if policy.metadata.name not in ("", MESH_CONFIG):
        yield f"{about}: is not in force: the mesh's is MeshConfig {question.namespace}/{MESH_CONFIG}"
    for doubt in doubts(policy.spec):
        yield f"{about}: {doubt}"


def _deleted(question: AdmissionRequest) -> list[str]:
    if question.kind != "MeshConfig" or question.name != MESH_CONFIG:
        return []
    about = f"MeshConfig {question.namespace}/{MESH_CONFIG}"
    return [f"{about}: without it the defaults are in force, and what no TrafficTarget allows is denied"]


def _before(question: AdmissionRequest) -> dict[str, Any] | None:
    """Return the stored specification; `None` for a new object, or if it cannot be read."""
    if question.before is None:
        return None
    try:
        return read_policy(question.before).spec
    except UndecodableError:
        return None
