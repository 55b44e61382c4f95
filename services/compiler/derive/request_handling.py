"""How the sidecars of a namespace's pods read requests: by the MeshConfig, or by annotations of the namespace."""

from __future__ import annotations

from typing import NamedTuple

from services.compiler.derive.membership import is_member, mesh_config, spiffe_ids
from services.compiler.engine import query
from services.compiler.mesh_state import MeshState
from shared.policy.model import EscapedSlashes
from shared.policy.object_name import ObjectName
from shared.policy.request_settings import escaped_slashes, listed_forwarders
from shared.projected_objects import ANNOTATION_ESCAPED_SLASHES, ANNOTATION_FORWARDERS


class RequestHandling(NamedTuple):
    """What differs between namespaces in how requests are read."""

    slashes: EscapedSlashes = "reject"
    forwarders: tuple[ObjectName, ...] = ()
    """Service accounts whose statements about the original request reach the application. Sorted."""


@query
def reading(mesh: MeshState, namespace: str) -> RequestHandling:
    """How the pods of a namespace are to read requests.

    An annotation that cannot be read is read as the stricter choice: slashes are rejected, no caller is added.
    """
    config = mesh_config(mesh)
    found = mesh.namespaces.get(namespace)
    annotations = {} if found is None else found.metadata.annotations
    slashes: EscapedSlashes = config.escaped_slashes
    if ANNOTATION_ESCAPED_SLASHES in annotations:
        try:
            slashes = escaped_slashes(annotations[ANNOTATION_ESCAPED_SLASHES])
        except ValueError:
            slashes = "reject"
    try:
        own = listed_forwarders(annotations.get(ANNOTATION_FORWARDERS, ""))
    except ValueError:
        own = ()
    return RequestHandling(slashes, tuple(sorted({*config.forwarders, *own})))


@query
def believed(mesh: MeshState, forwarders: tuple[ObjectName, ...]) -> tuple[str, ...]:
    """The identities of trusted forwarders; of an account whose namespace has left the mesh none. Sorted."""
    return tuple(
        sorted(
            identity
            for account in forwarders
            if is_member(mesh, account.namespace)
            for identity in spiffe_ids(mesh, account)
        )
    )
