"""Requests that are computed and not stored: TokenReview, access reviews, TokenRequest, Scale, `events.k8s.io`."""

from __future__ import annotations

from typing import Any

from deploy.devcluster.apiserver.access.authorization import Attributes, Authorizer
from deploy.devcluster.apiserver.access.token_authentication import TokenAuthenticator
from deploy.devcluster.apiserver.kinds.kind_registry import ResourceKind
from deploy.devcluster.apiserver.kinds.printer_columns import at
from deploy.devcluster.apiserver.status_errors import bad_request, invalid, required, wrong
from deploy.devcluster.apiserver.user_info import UserInfo
from deploy.devcluster.apiserver.write.write_options import timestamp
from deploy.devcluster.cluster_api import Obj


def _part(body: Any, name: str) -> dict[str, Any]:
    part = body.get(name) if isinstance(body, dict) else None
    if part is not None and not isinstance(part, dict):
        raise bad_request(f"{name} is no object")
    return part or {}


def token_review(accounts: TokenAuthenticator, body: Any) -> Obj:
    """The result of a TokenReview. Raises 400."""
    spec = _part(body, "spec")
    token, audiences = spec.get("token"), spec.get("audiences") or []
    if not isinstance(token, str) or not token:
        raise bad_request("token is required for TokenReview in authentication")
    if not isinstance(audiences, list) or not all(isinstance(one, str) for one in audiences):
        raise bad_request("spec.audiences is no list of strings")
    found = accounts.authenticate(token, audiences)
    status: dict[str, Any] = {"authenticated": False, "user": {}, "error": "[invalid bearer token]"}
    if found is not None:
        status = {"authenticated": True, "user": found[0].info(), "audiences": found[1]}
    return {
        "kind": "TokenReview",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"creationTimestamp": None},
        "spec": {key: value for key, value in spec.items() if key != "token"},
        "status": status,
    }


def token_request(accounts: TokenAuthenticator, namespace: str, account: str, body: Any, now: float) -> Obj:
    """The result of a TokenRequest. Raises 400, 404, 409, 422."""
    spec = _part(body, "spec")
    audiences, seconds = spec.get("audiences") or [], spec.get("expirationSeconds", 3600)
    reference = spec.get("boundObjectRef") or {}
    if not isinstance(audiences, list) or not all(isinstance(one, str) for one in audiences):
        raise bad_request("spec.audiences is no list of strings")
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not isinstance(reference, dict):
        raise bad_request("spec.expirationSeconds is a whole number, spec.boundObjectRef an object")
    if not 600 <= seconds <= 1 << 32:
        less = seconds < 600
        detail = f"may not specify a duration {'less than 10 minutes' if less else 'larger than 2^32 seconds'}"
        raise invalid("TokenRequest", "authentication.k8s.io", "", [wrong("spec.expirationSeconds", seconds, detail)])
    if reference and reference.get("kind") != "Pod":
        raise invalid(
            "TokenRequest", "authentication.k8s.io", "", [wrong("spec.boundObjectRef", reference, "only a Pod")]
        )
    issued = accounts.issue(
        namespace,
        account,
        audiences=audiences,
        seconds=seconds,
        pod=str(reference.get("name") or ""),
        pod_uid=str(reference.get("uid") or ""),
    )
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": account, "namespace": namespace, "creationTimestamp": timestamp(now)},
        "spec": {**spec, "audiences": audiences or [accounts.issuer], "expirationSeconds": seconds},
        "status": {"token": issued.token, "expirationTimestamp": timestamp(issued.expires_at)},
    }


def permission(kind: str, body: Any, caller: UserInfo, authorizer: Authorizer) -> Obj:
    """The result of a SubjectAccessReview, a rules review, or a SelfSubjectReview."""
    spec = _part(body, "spec")
    group = "authentication.k8s.io" if kind == "SelfSubjectReview" else "authorization.k8s.io"
    if kind == "SelfSubjectReview":
        status: dict[str, Any] = {"userInfo": caller.info()}
    elif kind == "SelfSubjectRulesReview":
        rules = authorizer.rules(caller, str(spec.get("namespace") or ""))
        status = {
            "resourceRules": [rule for rule in rules if rule.get("resources")],
            "nonResourceRules": [rule for rule in rules if rule.get("nonResourceURLs")],
            "incomplete": False,
        }
    else:
        if not kind.startswith("Self"):
            caller = UserInfo(str(spec.get("user") or ""), groups=tuple(map(str, spec.get("groups") or ())))
        status = {"allowed": authorizer.grant(caller, _asked(spec)) is not None or "system:masters" in caller.groups}
    made: dict[str, Any] = {"kind": kind, "apiVersion": f"{group}/v1", "metadata": {"creationTimestamp": None}}
    if spec:
        made["spec"] = spec
    return {**made, "status": status}


def _asked(spec: dict[str, Any]) -> Attributes:
    if path := _part(spec, "nonResourceAttributes"):
        return Attributes(verb=str(path.get("verb") or ""), path=str(path.get("path") or ""))
    about = {key: str(value) for key, value in _part(spec, "resourceAttributes").items()}
    resource = "/".join(filter(None, (about.get("resource", ""), about.get("subresource", ""))))
    return Attributes(
        verb=about.get("verb", ""),
        group=about.get("group", ""),
        resource=resource,
        namespace=about.get("namespace", ""),
        name=about.get("name", ""),
    )


def scale_of(kind: ResourceKind, obj: Obj) -> Obj:
    """The `Scale` of an object."""
    assert kind.scale is not None
    spec_path, status_path, selector_path = (path.removeprefix(".") for path in kind.scale)
    metadata = obj["metadata"]
    names = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: dict[str, Any] = {"replicas": at(obj, status_path) or 0}
    selector = at(obj, selector_path) if kind.custom else at(obj, "spec.selector.matchLabels")
    if isinstance(selector, dict):
        selector = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
    if selector:
        status["selector"] = selector
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: metadata[key] for key in names if key in metadata},
        "spec": {"replicas": at(obj, spec_path) or 0},
        "status": status,
    }


def scaled(kind: ResourceKind, obj: Obj, scale: Any) -> Obj:
    """The object with the replicas of a `Scale`. Raises 422."""
    assert kind.scale is not None
    replicas = _part(scale, "spec").get("replicas", 0)
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        name = obj["metadata"]["name"]
        detail = wrong("spec.replicas", replicas, "must be greater than or equal to 0")
        raise invalid("Scale", "autoscaling", name, [detail])
    *path, last = kind.scale.replicas.removeprefix(".").split(".")
    made = dict(obj)
    place = made
    for step in path:
        place[step] = dict(place.get(step) or {})
        place = place[step]
    place[last] = replicas
    # The precondition of the Scale, if any.
    given = _part(scale, "metadata").get("resourceVersion")
    if given:
        made["metadata"] = {**made["metadata"], "resourceVersion": given}
    return made


_EVENT_FIELDS = {
    "note": "message",
    "regarding": "involvedObject",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
    "reportingController": "reportingComponent",
}


def core_event(body: Any) -> Any:
    """Convert an `events.k8s.io/v1` Event to the core Event that is stored. Raises 422."""
    if not isinstance(body, dict):
        return body
    core = {_EVENT_FIELDS.get(key, key): value for key, value in body.items()}
    if not core.get("involvedObject"):
        raise invalid("Event", "events.k8s.io", "", [required("regarding")])
    return {**core, "apiVersion": "v1", "kind": "Event"}


def new_event(obj: Obj) -> Obj:
    """Convert a stored Event to `events.k8s.io/v1`."""
    back = {value: key for key, value in _EVENT_FIELDS.items()}
    made = {back.get(key, key): value for key, value in obj.items()}
    return {**made, "apiVersion": "events.k8s.io/v1"}
