"""The roots that this CA can sign with: one provider for each MeshRootCertificate, made on first use.

If there is no MeshRootCertificate, the settings define one root named `default`. It stays as long as the bundle holds
it, whatever MeshRootCertificates are created.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.serialization import Encoding

from services.ca.core.kube_api import KubeApi
from services.ca.core.provider import Provider
from services.ca.core.root_certificates import DEFAULT_ROOT, WantedRoot
from services.ca.core.rotation_plan import Candidate
from services.ca.keys.key_store import ExistingKeyStore, KeysLostError, KeyStore
from services.ca.providers.base import ProviderContext, find_provider
from shared.errors import MeshlogError
from shared.identity.svid import parse_certificates
from shared.identity.token_sealing import Opener
from shared.records.certificate_records import TrustBundle

_log = logging.getLogger(__name__)

OpenStore = Callable[[WantedRoot], KeyStore]


class RootRegistry:
    """Providers by the name of their root."""

    def __init__(
        self,
        *,
        default: WantedRoot,
        store: OpenStore,
        opener: Opener,
        kube: KubeApi | None,
        namespace: str,
        clock: Callable[[], float],
    ) -> None:
        """`default` is the root if there is no MeshRootCertificate; `store` returns the key store of a root."""
        self._default = default
        self._store = store
        self._opener = opener
        self._kube = kube
        self._namespace = namespace
        self._clock = clock
        self._providers: dict[str, tuple[WantedRoot, Provider]] = {}
        self.problems: dict[str, str] = {}
        """Root → why it cannot be used now."""

    def add(self, wanted: WantedRoot, provider: Provider) -> None:
        """Add a provider that exists already."""
        self._opener.hold(provider.sealing_keys)
        self._providers[wanted.name] = (wanted, provider)

    def signer(self, bundle: TrustBundle) -> Provider:
        """Return the provider of the root that signs. Raises `MeshlogError` if it cannot be used."""
        name = bundle.members[0].name if bundle.members else self._default.name
        found = self._providers.get(name)
        if found is None:
            why = self.problems.get(name, "its MeshRootCertificate is gone")
            raise MeshlogError("ca/root", f"cannot sign: {why}", about=name)
        return found[1]

    async def candidates(self, wanted: Sequence[WantedRoot], held: TrustBundle | None) -> list[Candidate]:
        """Return the wanted roots, oldest first.

        A root that cannot be used is recorded in `problems`, and is a candidate only if members trust it.
        """
        names = {one.name for one in wanted}
        every = list(wanted)
        if DEFAULT_ROOT not in names and (not wanted or _holds(held, DEFAULT_ROOT)):
            # Without a MeshRootCertificate of its own it is to be dropped as soon as others are wanted.
            role = "inactive" if wanted else "active"
            every.insert(0, _with_role(self._default, role))
        self.problems = {name: why for name, why in self.problems.items() if name in {one.name for one in every}}
        found: list[Candidate] = []
        for one in every:
            if one.role == "inactive" and not _holds(held, one.name):
                continue
            try:
                candidate = _candidate(one, await self._provider(one, trusted=_holds(held, one.name)))
                _check_same(candidate, held)
                found.append(candidate)
                self.problems.pop(one.name, None)
            except MeshlogError as error:
                if isinstance(error, KeysLostError):
                    # Its keys are loaded again each time. It must not sign until they are restored.
                    self._providers.pop(one.name, None)
                if self.problems.get(one.name) != str(error):
                    _log.warning("root %s cannot be used: %s", one.name, error)
                self.problems[one.name] = str(error)
                found += _unusable(one, held)
        return found

    async def refresh(self) -> None:
        """Run the maintenance of each provider."""
        for name, (_, provider) in list(self._providers.items()):
            try:
                await provider.refresh()
            except MeshlogError as error:
                _log.warning("root %s could not be refreshed: %s", name, error)

    async def _provider(self, wanted: WantedRoot, *, trusted: bool) -> Provider:
        """Return the provider of a root. If members trust it already, its keys must exist: new keys would differ."""
        held = self._providers.get(wanted.name)
        if held is not None:
            before, provider = held
            if (before.trust_domain, before.provider) != (wanted.trust_domain, wanted.provider):
                raise MeshlogError(
                    "root/changed", "its trust domain and provider cannot change; make another root", about=wanted.name
                )
            return provider
        context = ProviderContext(
            name=wanted.name,
            trust_domain=wanted.trust_domain,
            store=ExistingKeyStore(self._store(wanted), wanted.name) if trusted else self._store(wanted),
            settings=wanted.settings,
            kube=self._kube,
            namespace=self._namespace,
            clock=self._clock,
        )
        provider = await find_provider(wanted.provider)(context)
        self.add(wanted, provider)
        return provider


def _holds(held: TrustBundle | None, name: str) -> bool:
    return held is not None and any(member.name == name for member in held.members)


def _unusable(wanted: WantedRoot, held: TrustBundle | None) -> list[Candidate]:
    """Return the candidate of a trusted root that cannot be used now: an outage must not look like a deletion."""
    if held is None:
        return []
    return [
        Candidate(wanted.name, wanted.role, wanted.trust_domain, pem, sealing_keys=(), usable=False)
        for member, pem in zip(held.members, held.roots, strict=True)
        if member.name == wanted.name
    ]


def _check_same(candidate: Candidate, held: TrustBundle | None) -> None:
    """Raise `KeysLostError` unless members trust exactly this root: they reject what another key signs."""
    if held is None:
        return
    for member, pem in zip(held.members, held.roots, strict=True):
        if member.name == candidate.name and parse_certificates([pem]) != parse_certificates([candidate.root]):
            raise KeysLostError(
                "ca/other-keys",
                "the keys in the key store are not those of the root that the mesh trusts: restore them, "
                "or rotate to a new root",
                about=candidate.name,
            )


def _with_role(wanted: WantedRoot, role: str) -> WantedRoot:
    return WantedRoot(
        name=wanted.name,
        role="inactive" if role == "inactive" else "active",
        trust_domain=wanted.trust_domain,
        provider=wanted.provider,
        settings=wanted.settings,
        created=wanted.created,
    )


def _candidate(wanted: WantedRoot, provider: Provider) -> Candidate:
    pem = "".join(root.public_bytes(Encoding.PEM).decode() for root in provider.roots)
    keys = tuple(Opener(provider.sealing_keys).public_keys)
    return Candidate(name=wanted.name, role=wanted.role, trust_domain=wanted.trust_domain, root=pem, sealing_keys=keys)
