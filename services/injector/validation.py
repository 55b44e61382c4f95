"""Whether a policy object may be stored: not if the compiler would leave it out, and then with its own sentence. Pure.

Only what an object says by itself is judged. What it refers to may be applied a moment later, in any order, so a
reference to nothing is left to the compiler, which names it in the object's status. An update that leaves the
specification as it was always passes: whoever labels or deletes an object that was stored before this webhook was
there must not be stopped.
"""

from __future__ import annotations

import msgspec

from services.injector.configuration import read_mesh_spec
from services.injector.review import Question
from shared.errors import BadInputError
from shared.model import PolicyObject
from shared.policy.budgets import DEFAULTS, Budgets
from shared.policy.decode import POLICY_KINDS, decode
from shared.policy.errors import PolicyError
from shared.policy.reading import read_policy

GROUPS = frozenset(
    {
        "access.smi-spec.io",
        "config.openservicemesh.io",
        "policy.openservicemesh.io",
        "specs.smi-spec.io",
        "split.smi-spec.io",
    }
)
"""API groups of the kinds that are judged."""

_READ_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)


def check(question: Question, budgets: Budgets = DEFAULTS) -> None:
    """Raise `BadInputError` if the object is one that the compiler would leave out."""
    if question.object is None or question.sub_resource or question.operation == "DELETE":
        return
    if question.group not in GROUPS or question.kind not in POLICY_KINDS:
        return
    try:
        policy = read_policy(question.object)
    except _READ_ERRORS as error:
        raise BadInputError(
            "object/unreadable", f"cannot be read as a {question.kind} ({error})", about=question.kind
        ) from error
    if _is_unchanged(policy, question.before):
        return
    name = policy.metadata.name or "(no name yet)"
    # A namespaced object may leave its namespace to the request's path.
    if not policy.metadata.namespace:
        policy = msgspec.structs.replace(
            policy, metadata=msgspec.structs.replace(policy.metadata, namespace=question.namespace)
        )
    about = f"{question.kind} {question.namespace}/{name}"
    try:
        decode(question.kind, f"{question.group}/{question.version}", policy, budgets)
    except PolicyError as error:
        raise BadInputError(error.code, error.sentence, about=about) from error
    if question.kind == "MeshConfig":
        read_mesh_spec(policy.spec)


def _is_unchanged(policy: PolicyObject, before: msgspec.Raw | None) -> bool:
    if before is None:
        return False
    try:
        return read_policy(before).spec == policy.spec
    except _READ_ERRORS:
        return False
