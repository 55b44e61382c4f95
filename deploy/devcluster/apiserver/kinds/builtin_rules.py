"""Validation of built-in kinds beyond types: names, references inside an object, immutable fields. Pure.

A selection of Kubernetes' validation: likely mistakes of users, and what other parts of the devcluster rely on. The
messages are those of Kubernetes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from deploy.devcluster.apiserver.kinds.schema import clone
from deploy.devcluster.apiserver.selectors import structured_selector
from deploy.devcluster.apiserver.status_errors import (
    StatusCause,
    duplicate,
    required,
    shown,
    unsupported,
    wrong,
)
from deploy.devcluster.cluster_api import Obj
from shared.io.addresses import canonical

_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
_SERVICE = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
_SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_QUALIFIED = re.compile(r"^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$")
_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_DATA_KEY = re.compile(r"^[-._a-zA-Z0-9]+$")
_ENVIRONMENT = re.compile(r"^[^\x00-\x1f=\x7f-\uffff]+$")
_ANNOTATIONS = 256 * 1024
_FAMILIES = 2
"""IPv4 and IPv6."""

_LABEL_SAYS = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_SERVICE_SAYS = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_SUBDOMAIN_SAYS = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_KEY_SAYS = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_VALUE_SAYS = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)


def check_name(resource: str, name: str, *, generated: bool = False) -> list[StatusCause]:
    """Check the name of an object, or with `generated` a `generateName` prefix."""
    path = "metadata.generateName" if generated else "metadata.name"
    if generated:
        name = name.rstrip("-.") + "x"
    if not name:
        return [required(path, "name or generateName is required")]
    if resource.endswith(".rbac.authorization.k8s.io"):
        bad = name in {".", ".."} or "/" in name or "%" in name
        return [wrong(path, name, "may not contain '/' or '%', or be '.' or '..'")] if bad else []
    pattern, says, longest = _SUBDOMAIN, _SUBDOMAIN_SAYS, 253
    if resource == "namespaces":
        pattern, says, longest = _LABEL, _LABEL_SAYS, 63
    elif resource == "services":
        pattern, says, longest = _SERVICE, _SERVICE_SAYS, 63
    if len(name) > longest:
        return [wrong(path, name, f"must be no more than {longest} characters")]
    return [] if pattern.match(name) else [wrong(path, name, says)]


def check_metadata(metadata: dict[str, Any]) -> list[StatusCause]:
    """Check labels, annotations and owner references."""
    causes = list(_check_labels(metadata.get("labels") or {}, "metadata.labels"))
    annotations: dict[str, str] = metadata.get("annotations") or {}
    for key in annotations:
        causes += _check_key(key, "metadata.annotations")
    if sum(len(key) + len(value) for key, value in annotations.items()) > _ANNOTATIONS:
        causes.append(
            StatusCause(
                "FieldValueTooLong", "metadata.annotations", f"Too long: may not be more than {_ANNOTATIONS} bytes"
            )
        )
    controllers = [one for one in metadata.get("ownerReferences") or () if one.get("controller")]
    if len(controllers) > 1:
        causes.append(
            wrong("metadata.ownerReferences", len(controllers), "Only one reference can have Controller set to true")
        )
    return causes


def _check_key(key: str, path: str) -> list[StatusCause]:
    prefix, slash, name = key.rpartition("/")
    if slash and not (_SUBDOMAIN.match(prefix) and len(prefix) <= 253):
        return [wrong(path, key, f"prefix part {_SUBDOMAIN_SAYS}")]
    if len(name) > 63:
        return [wrong(path, key, "name part must be no more than 63 characters")]
    return [] if _QUALIFIED.match(name) else [wrong(path, key, _KEY_SAYS)]


def _check_labels(labels: dict[str, str], path: str) -> Iterable[StatusCause]:
    for key, value in labels.items():
        yield from _check_key(key, path)
        if len(value) > 63:
            yield wrong(path, value, "must be no more than 63 characters")
        elif not _VALUE.match(value):
            yield wrong(path, value, _VALUE_SAYS)


def _check_port(value: Any, path: str) -> Iterable[StatusCause]:
    if isinstance(value, int) and not 1 <= value <= 65535:
        yield wrong(path, value, "must be between 1 and 65535, inclusive")
    elif isinstance(value, str) and not (_LABEL.match(value) and len(value) <= 15 and re.search("[a-z]", value)):
        yield wrong(
            path, value, "must contain at least one letter (a-z), at most 15 characters, and no others than '-'"
        )


def _unique(items: Iterable[dict[str, Any]], key: str, path: str) -> Iterable[StatusCause]:
    seen: set[Any] = set()
    for index, item in enumerate(items):
        value = item.get(key)
        if value is not None and value in seen:
            yield duplicate(f"{path}[{index}].{key}", value)
        seen.add(value)


def _check_probe(probe: dict[str, Any], path: str) -> Iterable[StatusCause]:
    handlers = [name for name in ("exec", "httpGet", "tcpSocket", "grpc") if name in probe]
    if not handlers:
        yield required(path, "must specify a handler type")
    for more in handlers[1:]:
        yield StatusCause(
            "FieldValueForbidden", f"{path}.{more}", "Forbidden: may not specify more than 1 handler type"
        )
    for name in ("httpGet", "tcpSocket"):
        if name in probe:
            yield from _check_port(probe[name].get("port"), f"{path}.{name}.port")


def _check_container(container: dict[str, Any], path: str, volumes: set[str]) -> Iterable[StatusCause]:
    name = container.get("name", "")
    if not name:
        yield required(f"{path}.name")
    elif not _LABEL.match(name) or len(name) > 63:
        yield wrong(f"{path}.name", name, _LABEL_SAYS)
    if not container.get("image"):
        yield required(f"{path}.image")
    ports = container.get("ports") or []
    for index, port in enumerate(ports):
        yield from _check_port(port.get("containerPort"), f"{path}.ports[{index}].containerPort")
        yield from _check_protocol(port, f"{path}.ports[{index}].protocol")
    yield from _unique(ports, "name", f"{path}.ports")
    for index, variable in enumerate(container.get("env") or ()):
        yield from _check_variable(variable, f"{path}.env[{index}]")
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        yield from _check_mount(mount, f"{path}.volumeMounts[{index}]", volumes)
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if probe in container:
            yield from _check_probe(container[probe], f"{path}.{probe}")


def _check_protocol(port: dict[str, Any], path: str) -> Iterable[StatusCause]:
    if port.get("protocol") not in {"TCP", "UDP", "SCTP"}:
        yield unsupported(path, port.get("protocol"), ("SCTP", "TCP", "UDP"))


def _check_variable(variable: dict[str, Any], path: str) -> Iterable[StatusCause]:
    if not variable.get("name"):
        yield required(f"{path}.name")
    elif not _ENVIRONMENT.match(variable["name"]):
        yield wrong(f"{path}.name", variable["name"], "a valid environment variable name is needed")
    if variable.get("value") and variable.get("valueFrom") is not None:
        yield wrong(f"{path}.valueFrom", "", "may not be specified when `value` is not empty")


def _check_mount(mount: dict[str, Any], path: str, volumes: set[str]) -> Iterable[StatusCause]:
    if mount.get("name") not in volumes:
        yield StatusCause("FieldValueNotFound", f"{path}.name", f"Not found: {shown(mount.get('name'))}")
    if not mount.get("mountPath"):
        yield required(f"{path}.mountPath")


def _check_volumes(volumes: Sequence[dict[str, Any]], path: str) -> Iterable[StatusCause]:
    yield from _unique(volumes, "name", path)
    for index, volume in enumerate(volumes):
        name = str(volume.get("name") or "")
        if not name:
            yield required(f"{path}[{index}].name")
        elif not _LABEL.match(name) or len(name) > 63:
            yield wrong(f"{path}[{index}].name", name, _LABEL_SAYS)


def check_pod_spec(spec: dict[str, Any], path: str) -> Iterable[StatusCause]:
    """Check the spec of a pod or of a pod template."""
    volumes = {str(volume.get("name")) for volume in spec.get("volumes") or ()}
    yield from _check_volumes(spec.get("volumes") or (), f"{path}.volumes")
    if not spec.get("containers"):
        yield required(f"{path}.containers")
    names: set[str] = set()
    for group in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(group) or ()):
            below = f"{path}.{group}[{index}]"
            yield from _check_container(container, below, volumes)
            name = str(container.get("name"))
            if name in names:
                yield duplicate(f"{below}.name", name)
            names.add(name)
            if group == "initContainers" and container.get("restartPolicy", "Always") != "Always":
                yield unsupported(f"{below}.restartPolicy", container["restartPolicy"], ("Always",))
    if spec.get("restartPolicy") not in {"Always", "OnFailure", "Never"}:
        yield unsupported(f"{path}.restartPolicy", spec.get("restartPolicy"), ("Always", "OnFailure", "Never"))
    if spec.get("terminationGracePeriodSeconds", 0) < 0:
        yield wrong(
            f"{path}.terminationGracePeriodSeconds",
            spec["terminationGracePeriodSeconds"],
            "must be greater than or equal to 0",
        )


def _pod(obj: Obj, old: Obj | None) -> Iterable[StatusCause]:
    yield from check_pod_spec(obj["spec"], "spec")
    if old is not None and _fixed(obj["spec"], old["spec"]) != _fixed(old["spec"], old["spec"]):
        yield StatusCause(
            "FieldValueForbidden",
            "spec",
            "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
            "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` "
            "(only additions to existing tolerations),`spec.terminationGracePeriodSeconds` "
            "(allow it to be set to 1 if it was previously negative)",
        )


def _fixed(spec: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    fixed = clone(spec)
    for free in ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "ephemeralContainers"):
        fixed.pop(free, None)
    if not old.get("nodeName"):
        fixed.pop("nodeName", None)  # the scheduler's binding
    for group in ("containers", "initContainers"):
        for container in fixed.get(group) or ():
            container.pop("image", None)
            container.pop("imagePullPolicy", None)
    return fixed


def _workload(obj: Obj, old: Obj | None) -> Iterable[StatusCause]:
    spec = obj["spec"]
    if spec.get("replicas", 0) < 0:
        yield wrong("spec.replicas", spec["replicas"], "must be greater than or equal to 0")
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    selector = spec.get("selector") or {}
    yield from _check_labels(labels, "spec.template.labels")
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        yield wrong("spec.selector", selector, "empty selector is invalid for deployment")
    elif not structured_selector(selector)(labels):
        yield wrong("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    if template.get("spec") is None:
        yield required("spec.template.spec")
        return
    yield from check_pod_spec(_with_claims(template["spec"], spec), "spec.template.spec")
    if template["spec"].get("restartPolicy") != "Always":
        yield unsupported("spec.template.spec.restartPolicy", template["spec"].get("restartPolicy"), ("Always",))
    if old is not None and old["spec"].get("selector") != selector:
        yield wrong("spec.selector", selector, "field is immutable")


def _with_claims(pod_spec: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """A template's pod spec in which the claim templates of a StatefulSet replace volumes of the same names."""
    claims = [str((claim.get("metadata") or {}).get("name", "")) for claim in spec.get("volumeClaimTemplates") or ()]
    volumes = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in claims]
    others = [volume for volume in pod_spec.get("volumes") or () if volume.get("name") not in claims]
    return {**pod_spec, "volumes": [*others, *volumes]}


def _stateful_set(obj: Obj, old: Obj | None) -> Iterable[StatusCause]:
    yield from _workload(obj, old)
    policy = obj["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
    for when in ("whenDeleted", "whenScaled"):
        if policy.get(when, "Retain") not in ("Retain", "Delete"):
            yield unsupported(f"spec.persistentVolumeClaimRetentionPolicy.{when}", policy[when], ("Retain", "Delete"))
    if old is not None:
        free = {
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
            "selector",
        }
        changed = {key for key in {*obj["spec"], *old["spec"]} if obj["spec"].get(key) != old["spec"].get(key)}
        if changed - free:
            yield StatusCause(
                "FieldValueForbidden",
                "spec",
                "Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
                "'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and "
                "'minReadySeconds' are forbidden",
            )


def _service(obj: Obj, old: Obj | None) -> Iterable[StatusCause]:
    spec = obj["spec"]
    kinds = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
    if spec["type"] not in kinds:
        yield unsupported("spec.type", spec["type"], kinds)
    ports = spec.get("ports") or []
    if not ports and spec["type"] != "ExternalName" and spec.get("clusterIP") != "None":
        yield required("spec.ports")
    if spec["type"] == "ExternalName" and not spec.get("externalName"):
        yield required("spec.externalName")
    yield from _check_service_ports(ports)
    yield from _check_cluster_ips(spec)
    before = (old or {}).get("spec", {}).get("clusterIP")
    if before and spec.get("clusterIP") != before and spec["type"] != "ExternalName":
        yield wrong("spec.clusterIPs[0]", spec.get("clusterIPs"), "may not change once set")


def _check_service_ports(ports: Sequence[dict[str, Any]]) -> Iterable[StatusCause]:
    seen: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        yield from _check_service_port(port, path, named=len(ports) > 1)
        key = (port.get("port"), port.get("protocol"))
        if key in seen:
            yield duplicate(path, {"port": key[0], "protocol": key[1]})
        seen.add(key)
    yield from _unique([port for port in ports if port.get("name")], "name", "spec.ports")


def _check_service_port(port: dict[str, Any], path: str, *, named: bool) -> Iterable[StatusCause]:
    """One port of a Service; `named`: a name is required, because the Service has several ports."""
    name = port.get("name")
    if named and not name:
        yield required(f"{path}.name")
    if name and not _LABEL.match(name):
        yield wrong(f"{path}.name", name, _LABEL_SAYS)
    yield from _check_port(port.get("port"), f"{path}.port")
    yield from _check_port(port.get("targetPort"), f"{path}.targetPort")
    yield from _check_protocol(port, f"{path}.protocol")


def _check_cluster_ips(spec: Obj) -> Iterable[StatusCause]:
    """Canonical addresses; `clusterIP` equals the first of `clusterIPs`. `write/cluster_ips.py` checks allocation."""
    first, listed = spec.get("clusterIP") or "", list[str](spec.get("clusterIPs") or ())
    if listed and listed[0] != first:
        yield wrong("spec.clusterIPs[0]", listed[0], "must be the same as spec.clusterIP")
    if len(listed) > _FAMILIES:
        yield wrong("spec.clusterIPs", listed, "may only hold up to 2 values")
    for index, address in enumerate(listed or [first]):
        if address and (address != "None" or index) and canonical(address) != address:
            yield wrong(f"spec.clusterIPs[{index}]", address, "must be a valid IP address, (e.g. 10.9.8.7)")


def _keys(obj: Obj, old: Obj | None) -> Iterable[StatusCause]:
    for name in ("data", "binaryData"):
        for key in obj.get(name) or {}:
            if not _DATA_KEY.match(key) or len(key) > 253 or key in {".", ".."}:
                yield wrong(
                    f"{name}[{key}]", key, "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
                )
    for key in set(obj.get("data") or ()) & set(obj.get("binaryData") or ()):
        yield wrong(f"data[{key}]", key, "duplicate of key present in binaryData")
    if old is not None and old.get("immutable"):
        for name in ("data", "binaryData"):
            if obj.get(name) != old.get(name):
                yield StatusCause("FieldValueForbidden", name, "Forbidden: field is immutable when `immutable` is set")


def _webhooks(obj: Obj, _old: Obj | None) -> Iterable[StatusCause]:
    yield from _unique(obj.get("webhooks") or (), "name", "webhooks")
    for index, webhook in enumerate(obj.get("webhooks") or ()):
        path = f"webhooks[{index}]"
        if webhook.get("name", "").count(".") < 2:
            yield wrong(
                f"{path}.name", webhook.get("name"), "should be a domain with at least three segments separated by dots"
            )
        if webhook.get("sideEffects") not in {"None", "NoneOnDryRun"}:
            yield unsupported(f"{path}.sideEffects", webhook.get("sideEffects"), ("None", "NoneOnDryRun"))
        if "v1" not in (webhook.get("admissionReviewVersions") or ()):
            yield wrong(
                f"{path}.admissionReviewVersions",
                webhook.get("admissionReviewVersions"),
                "must include at least one of v1",
            )
        if not 1 <= webhook.get("timeoutSeconds", 10) <= 30:
            yield wrong(
                f"{path}.timeoutSeconds",
                webhook["timeoutSeconds"],
                "the timeout value must be between 1 and 30 seconds",
            )
        if webhook.get("failurePolicy") not in {"Fail", "Ignore"}:
            yield unsupported(f"{path}.failurePolicy", webhook.get("failurePolicy"), ("Fail", "Ignore"))
        config = webhook.get("clientConfig") or {}
        if ("url" in config) == ("service" in config):
            yield required(f"{path}.clientConfig", "exactly one of url or service is required")


def _role_binding(obj: Obj, old: Obj | None) -> Iterable[StatusCause]:
    if old is not None and obj.get("roleRef") != old.get("roleRef"):
        yield wrong("roleRef", obj.get("roleRef"), "cannot change roleRef")


_RULES: dict[str, Callable[[Obj, Obj | None], Iterable[StatusCause]]] = {
    "pods": _pod,
    "deployments.apps": _workload,
    "replicasets.apps": _workload,
    "statefulsets.apps": _stateful_set,
    "services": _service,
    "configmaps": _keys,
    "secrets": _keys,
    "mutatingwebhookconfigurations.admissionregistration.k8s.io": _webhooks,
    "validatingwebhookconfigurations.admissionregistration.k8s.io": _webhooks,
    "rolebindings.rbac.authorization.k8s.io": _role_binding,
    "clusterrolebindings.rbac.authorization.k8s.io": _role_binding,
}
_NEED_SPEC = frozenset({"pods", "services", "deployments.apps", "replicasets.apps", "statefulsets.apps"})


def check(resource: str, obj: Obj, old: Obj | None) -> list[StatusCause]:
    """Causes why an object of a built-in kind is invalid, or may not replace `old`."""
    if resource in _NEED_SPEC and not isinstance(obj.get("spec"), dict):
        return [required("spec")]
    rule = _RULES.get(resource)
    return list(rule(obj, old)) if rule else []
