"""A MeshRootCertificate as the CA reads it: role, trust domain, and the settings of its provider.

Here and not in the CA, since it is judged where it is stored, too (`services/injector/core/policy_validation.py`), and
there is no second reader. The CA takes the shape (`read_root`) apart from the settings (`vault_settings`, …): a root
whose settings cannot be used is still wanted, and its status shows what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal, TypeVar, cast, get_args

import msgspec

from shared.errors import BadInputError, MeshlogError
from shared.identity.spiffe import TRUST_DOMAIN_RULE, is_trust_domain
from shared.identity.svid import parse_certificates
from shared.io.decoding import UndecodableError, convert
from shared.timing.duration import parse_duration

T = TypeVar("T")

Role = Literal["active", "passive", "inactive"]
ROLES: tuple[str, ...] = get_args(Role)
ENTRY_POINTS = "meshlog.ca.providers"
"""Group of the providers of others."""
_ALIASES = {"tresor": "builtin", "cert-manager": "certManager"}
_OURS = ("builtin", "certManager", "vault")
_NAMED = 60
"""Characters of a name that a sentence repeats."""
_DAYS = re.compile(r"(\d{1,7})d")
_ABOUT = "MeshRootCertificate"


class RootSpec(msgspec.Struct, frozen=True):
    """`spec` of a MeshRootCertificate."""

    role: Role
    trust_domain: str
    provider: str
    """`builtin`, `vault`, `certManager`, or the name of an installed one."""
    settings: dict[str, Any]
    """What stands under the provider's name."""


class SecretKey(msgspec.Struct, frozen=True):
    """An entry of a Secret."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    key: Annotated[str, msgspec.Meta(min_length=1)]


class VaultToken(msgspec.Struct, frozen=True, rename="camel"):
    """Where Vault's token is."""

    secret_key_ref: SecretKey


class VaultSettings(msgspec.Struct, frozen=True, rename="camel"):
    """What stands under `vault` in a MeshRootCertificate; names and defaults are OSM's where it has them."""

    host: Annotated[str, msgspec.Meta(min_length=1)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 8200
    protocol: Literal["http", "https"] = "http"
    mount: str = "pki"
    role: str = ""
    """Of the Kubernetes auth method."""
    auth_mount: str = "kubernetes"
    namespace: str = ""
    """Vault Enterprise's."""
    ttl: str = "2160h"
    ca_bundle: str = ""
    """PEM that Vault's own certificate leads to; empty: the system's roots."""
    token: VaultToken | None = None


class CertManagerSettings(msgspec.Struct, frozen=True, rename="camel"):
    """What stands under `certManager` in a MeshRootCertificate; names are Open Service Mesh's where it has them."""

    issuer_name: Annotated[str, msgspec.Meta(min_length=1)]
    issuer_kind: str = "Issuer"
    issuer_group: str = "cert-manager.io"
    duration: str = "2160h"
    ca_bundle: str = ""


def read_root(spec: Mapping[str, Any], *, about: str = _ABOUT) -> RootSpec:
    """What a root is wanted as; raises `BadInputError` if it is none. Its settings are not read yet."""
    provider = spec.get("provider")
    role, domain = spec.get("role"), spec.get("trustDomain")
    if role not in ROLES or not isinstance(domain, str) or not isinstance(provider, dict):
        raise BadInputError("root/spec", "needs a role, a trustDomain and a provider", about=about)
    named = cast("dict[str, Any]", provider)
    if len(named) != 1:
        raise BadInputError("root/spec", "needs exactly one provider", about=about)
    name, settings = next(iter(named.items()))
    if not isinstance(settings or {}, dict):
        raise BadInputError("root/spec", f"provider.{name[:_NAMED]} must be an object", about=about)
    return RootSpec(
        role=cast("Role", role), trust_domain=domain, provider=_ALIASES.get(name, name), settings=settings or {}
    )


def known_provider(name: str) -> str:
    """The name itself; raises `BadInputError` if no provider is called so."""
    others = {entry.name for entry in entry_points(group=ENTRY_POINTS)}
    if name not in _OURS and name not in others:
        known = ", ".join(sorted({*_OURS, *others}))
        raise BadInputError("ca/provider", f"is no CA provider; there are: {known}", about=name[:_NAMED])
    return name


def key_secret(settings: Mapping[str, Any], *, about: str = _ABOUT) -> str:
    """Name of the Secret for the root's keys; empty: the CA's own. Raises `BadInputError` for what names none."""
    named = settings.get("secret") or _inside(_inside(settings, "ca", about), "secretRef", about).get("name") or ""
    if not isinstance(named, str):
        raise BadInputError("builtin/settings", "the name of its Secret must be a text", about=about)
    return named


def vault_settings(settings: Mapping[str, Any], *, about: str = _ABOUT) -> VaultSettings:
    """Raises `BadInputError` for settings with which Vault cannot sign."""
    found = _converted(settings, VaultSettings, "vault/settings", about)
    wrong = [] if found.token is not None or found.role else ["needs a token's secretKeyRef or a role"]
    wrong += _lifetime(_DAYS.sub(_hours, found.ttl) if not found.ttl.isdecimal() else "0", "ttl", found.ttl)
    wrong += _bundle(found.ca_bundle) if found.protocol == "https" else []
    if wrong:
        raise BadInputError("vault/settings", "; ".join(wrong), about=about)
    return found


def cert_manager_settings(settings: Mapping[str, Any], *, about: str = _ABOUT) -> CertManagerSettings:
    """Raises `BadInputError` for settings with which cert-manager cannot sign."""
    found = _converted(settings, CertManagerSettings, "cert-manager/settings", about)
    if wrong := [*_lifetime(found.duration, "duration", found.duration), *_bundle(found.ca_bundle)]:
        raise BadInputError("cert-manager/settings", "; ".join(wrong), about=about)
    return found


def problems(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the CA cannot use of a MeshRootCertificate's `spec`: codes and its own sentences; all of them."""
    found: list[tuple[str, str]] = []

    def tried(read: Callable[[], object], where: str = "") -> None:
        try:
            read()
        except MeshlogError as error:
            place = where or (error.about if error.about != _ABOUT else "")
            found.append((error.code, f"{place}: {error.sentence}" if place else error.sentence))

    domain = spec.get("trustDomain")
    if isinstance(domain, str) and not is_trust_domain(domain):
        found.append(("root/trust-domain", f"trustDomain: {TRUST_DOMAIN_RULE}"))
    try:
        root = read_root(spec)
    except BadInputError as error:
        return [*found, (error.code, error.sentence)]
    tried(lambda: known_provider(root.provider))
    readers: dict[str, Callable[..., object]] = {
        "builtin": key_secret,
        "vault": vault_settings,
        "certManager": cert_manager_settings,
    }
    if (read := readers.get(root.provider)) is not None:
        tried(lambda: read(root.settings), f"provider.{_named(spec)}")
    return found


def doubts(spec: Mapping[str, Any], namespace: str) -> list[str]:
    """What may not be meant, in a root without problems in the mesh's `namespace`."""
    root = read_root(spec)
    path, reference = "ca.secretRef", _inside(_inside(root.settings, "ca", _ABOUT), "secretRef", _ABOUT)
    if root.provider == "vault":
        path = "token.secretKeyRef"
        reference = _inside(_inside(root.settings, "token", _ABOUT), "secretKeyRef", _ABOUT)
    place = f"provider.{_named(spec)}.{path}"
    found: list[str] = []
    if reference and not reference.get("name") and not root.settings.get("secret"):
        found.append(f"{place}: names no Secret, so the key is kept in the CA's own")
    if reference.get("namespace") not in (None, "", namespace):
        found.append(f"{place}.namespace: Secrets are read in {namespace}, the mesh's own namespace")
    return found


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What the CA reports of a root whose identity changes while it is in use; empty if it does not change."""
    try:
        one, other = read_root(before), read_root(after)
    except BadInputError:
        return ""
    same = (one.trust_domain, one.provider) == (other.trust_domain, other.provider)
    return "" if same else "its trust domain and provider cannot change; make another root"


def _named(spec: Mapping[str, Any]) -> str:
    return str(next(iter(spec["provider"])))[:_NAMED]


def _inside(settings: Mapping[str, Any], name: str, about: str) -> dict[str, Any]:
    part: object = settings.get(name)
    if part is None:
        return {}
    if not isinstance(part, dict):
        raise BadInputError("root/settings", f"{name} must be an object", about=about)
    return cast("dict[str, Any]", part)


def _converted(settings: Mapping[str, Any], kind: type[T], code: str, about: str) -> T:
    try:
        return convert(kind, settings)
    except UndecodableError as error:
        raise BadInputError(code, str(error), about=about) from error


def _lifetime(duration: str, field: str, written: str) -> list[str]:
    """What is wrong with a duration of Go's, which was `written` so."""
    try:
        parse_duration(duration)
    except ValueError:
        return [f"{field}: {written[:40]!r} is not a duration such as 24h or 1h30m"]
    return []


def _hours(days: re.Match[str]) -> str:
    """Vault takes days as well (and seconds without a unit)."""
    return f"{int(days[1]) * 24}h"


def _bundle(pem: str) -> list[str]:
    """What is wrong with certificates in PEM, if there are any."""
    try:
        fine = not pem or parse_certificates([pem])
    except MeshlogError:
        fine = False
    return [] if fine else ["caBundle holds no certificates"]
