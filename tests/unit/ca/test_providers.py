"""CAs outside sign an intermediate of ours, and what they return is not believed unseen."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.ca.core.kube_api import KubeAnswer
from services.ca.core.template import LeafTemplate
from services.ca.core.validator import check_issued
from services.ca.keys.authority import AuthorityError, new_serial
from services.ca.providers.base import ProviderContext, find_provider
from services.ca.providers.cert_manager import CertManagerError, cert_manager
from services.ca.providers.intermediate import IntermediateProvider
from services.ca.providers.vault import VaultClient, VaultError
from shared.errors import BadInputError
from shared.identity.spiffe import SpiffeId
from shared.meshconfig.root_certificate import VaultSettings
from tests.unit.ca.fake_kubernetes import FakeKubernetes
from tests.unit.ca.outside import FakeVault, OutsideCa, served
from tests.unit.ca.running import MemoryKeys, MemoryKeyStore

NOW = 1_800_000_000.0
BUYER = SpiffeId("cluster.local", "bookstore", "bookbuyer")
TOKEN = {"token": {"secretKeyRef": {"name": "meshlog-ca", "key": "vault-token"}}}


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def context(settings: dict[str, Any], clock: Clock, *, kube: Any = None, store: MemoryKeyStore | None = None) -> Any:
    fake = FakeKubernetes()
    secret = {"metadata": {"name": "meshlog-ca"}, "data": {"vault-token": base64.b64encode(b"s.root\n").decode()}}
    fake.put("/api/v1/namespaces/meshlog-system/secrets/meshlog-ca", secret)
    keys = MemoryKeys(store or MemoryKeyStore(), "root-2")
    return ProviderContext(
        name="root-2", trust_domain="cluster.local", store=keys, settings=settings, kube=kube or fake, clock=clock
    )


def template(clock: Clock) -> LeafTemplate:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    now = int(clock.now)
    return LeafTemplate(BUYER, key, spki, (), now - 20, now + 3600, new_serial())


async def test_vault_signs_an_intermediate_once_and_leaves_need_it_no_more() -> None:
    clock, store = Clock(), MemoryKeyStore()
    vault = FakeVault(OutsideCa(now=NOW))
    async with served(vault) as port:
        settings = {"host": "127.0.0.1", "port": port, **TOKEN}
        provider = await find_provider("vault")(context(settings, clock, store=store))
        vault.sealed = True
        wanted = template(clock)
        chain = await provider.sign(wanted)
        check_issued(chain, wanted, provider.roots, now=NOW)
        again = await find_provider("vault")(context(settings, clock, store=store))
    assert provider.roots == [vault.ca.root]
    assert len(chain) == 2
    assert vault.ca.signed == 1
    assert again.roots == provider.roots
    asked = vault.seen[0]
    assert (asked["max_path_length"], asked["uri_sans"], asked["ttl"]) == (0, "spiffe://cluster.local", "2160h")
    assert b"s.root" not in b"".join(store.stored.values())


async def test_the_intermediate_is_renewed_at_two_thirds_and_keeps_its_root() -> None:
    clock = Clock()
    outside = OutsideCa(now=NOW)
    async with served(FakeVault(outside)) as port:
        provider = await find_provider("vault")(context({"host": "127.0.0.1", "port": port, **TOKEN}, clock))
        ends = provider.not_after
        clock.now = outside.now = NOW + timedelta(days=50).total_seconds()
        await provider.refresh()
        assert (provider.not_after, outside.signed) == (ends, 1)
        clock.now = outside.now = NOW + timedelta(days=61).total_seconds()
        await provider.refresh()
        assert provider.not_after > ends
        wanted = template(clock)
        check_issued(await provider.sign(wanted), wanted, [outside.root], now=clock.now)
        keys = provider.sealing_keys
        outside.__init__(now=NOW + timedelta(days=130).total_seconds())
        clock.now = outside.now
        with pytest.raises(AuthorityError, match="another root"):
            await provider.refresh()
    assert provider.sealing_keys == keys


@pytest.mark.parametrize("shape", ["with itself", "root", "nothing"])
async def test_the_chain_of_every_version_of_vault_is_understood(shape: str) -> None:
    clock, vault = Clock(), FakeVault(OutsideCa(now=NOW))
    vault.chain = shape
    async with served(vault) as port:
        provider = await find_provider("vault")(context({"host": "127.0.0.1", "port": port, **TOKEN}, clock))
    wanted = template(clock)
    chain = await provider.sign(wanted)
    check_issued(chain, wanted, [vault.ca.root], now=NOW)
    assert (len(chain), provider.roots) == (2, [vault.ca.root])


async def test_nothing_outlives_a_root_that_ends_before_the_intermediate() -> None:
    """Vault before 1.17 signs intermediates beyond its own end."""
    clock, vault = Clock(), FakeVault(OutsideCa(now=NOW))
    vault.ca.lifetime = timedelta(days=20 * 365)
    async with served(vault) as port:
        provider = await find_provider("vault")(context({"host": "127.0.0.1", "port": port, **TOKEN}, clock))
    assert provider.not_after == vault.ca.root.not_valid_after_utc.timestamp()


async def test_an_outage_of_vault_stops_no_leaf_and_the_renewal_waits_for_its_end() -> None:
    """Sealed, unreachable, or without our token: what is signed goes on, also by a CA that starts meanwhile."""
    clock, store, vault = Clock(), MemoryKeyStore(), FakeVault(OutsideCa(now=NOW))
    async with served(vault) as port:
        settings = {"host": "127.0.0.1", "port": port, **TOKEN}
        provider = await find_provider("vault")(context(settings, clock, store=store))
        clock.now = vault.ca.now = NOW + timedelta(days=61).total_seconds()
        for outage in (seal, forget_tokens):
            outage(vault)
            with pytest.raises(VaultError):
                await provider.refresh()
            wanted = template(clock)
            check_issued(await provider.sign(wanted), wanted, [vault.ca.root], now=clock.now)
    with pytest.raises(VaultError, match="no answer"):
        await provider.refresh()
    fresh = await find_provider("vault")(context(settings, clock, store=store))
    wanted = template(clock)
    check_issued(await fresh.sign(wanted), wanted, [vault.ca.root], now=clock.now)
    before, vault.sealed, vault.tokens = fresh.not_after, False, {"s.root"}
    async with served(vault) as port:
        settings["port"] = port
        back = await find_provider("vault")(context(settings, clock, store=store))
        await back.refresh()
    assert back.not_after > before
    assert vault.ca.signed == 2


async def test_vaults_kubernetes_login_is_spoken(tmp_path: Path) -> None:
    clock, vault = Clock(), FakeVault(OutsideCa(now=NOW))
    account = tmp_path / "token"
    account.write_text("account-jwt\n")
    async with served(vault) as port:
        made = context({}, clock)
        client = VaultClient(VaultSettings(host="127.0.0.1", port=port, role="meshlog"), made, account_token=account)
        provider = await IntermediateProvider.open(made, client.sign)
        assert provider.roots == [vault.ca.root]
        account.write_text("nobody's")
        with pytest.raises(VaultError, match="permission denied"):
            await IntermediateProvider.open(context({}, clock), client.sign)


def seal(vault: FakeVault) -> None:
    vault.sealed = True


def forget_tokens(vault: FakeVault) -> None:
    vault.tokens.clear()


def forbid(vault: FakeVault) -> None:
    vault.ca.may_sign = False


def swap_key(vault: FakeVault) -> None:
    vault.ca.other_key = True


def expire(vault: FakeVault) -> None:
    vault.ca.now -= timedelta(days=91).total_seconds()


def swap_root(vault: FakeVault) -> None:
    vault.ca.root = OutsideCa(now=NOW).root


@pytest.mark.parametrize(
    ("mutate", "code"),
    [
        (seal, "vault/refused"),
        (forget_tokens, "vault/refused"),
        (forbid, "ca/intermediate"),
        (swap_key, "ca/intermediate"),
        (expire, "ca/intermediate"),
        (swap_root, "ca/intermediate"),
    ],
)
async def test_one_thing_wrong_at_vault_gives_no_provider(mutate: Callable[[FakeVault], None], code: str) -> None:
    clock, vault, store = Clock(), FakeVault(OutsideCa(now=NOW)), MemoryKeyStore()
    mutate(vault)
    async with served(vault) as port:
        with pytest.raises((VaultError, AuthorityError)) as refused:
            await find_provider("vault")(context({"host": "127.0.0.1", "port": port, **TOKEN}, clock, store=store))
    assert refused.value.code == code
    assert "s.root" not in str(refused.value)
    assert not store.stored


@pytest.mark.parametrize("settings", [{}, {"host": "h"}, {"host": 1, "role": "r"}])
async def test_settings_of_vault_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadInputError):
        await find_provider("vault")(context(settings, Clock()))


class CertManager:
    """A `KubeApi` whose CertificateRequests an issuer answers at once."""

    def __init__(self, outside: OutsideCa) -> None:
        self.outside = outside
        self.status: dict[str, Any] | None = None
        self.requests: dict[str, Any] = {}
        self.deleted: list[str] = []
        self.keeps_its_root = False

    async def request(self, method: str, path: str, *, body: Any = None, **_: Any) -> KubeAnswer:
        if method == "POST":
            made = {**body, "metadata": {"name": "meshlog-abc"}, "status": self.status or self._signed(body)}
            self.requests[f"{path}/meshlog-abc"] = made
            return KubeAnswer(201, msgspec.json.encode(made))
        if method == "DELETE":
            self.deleted.append(path)
            return KubeAnswer(200, b"{}")
        return KubeAnswer(200, msgspec.json.encode(self.requests[path]))

    def _signed(self, body: dict[str, Any]) -> dict[str, Any]:
        status = sign_request(self.outside, body["spec"])
        return {**status, "ca": ""} if self.keeps_its_root else status

    def watch(self, path: str, *, query: Any) -> Any:
        raise AssertionError(path, query)


def sign_request(outside: OutsideCa, spec: dict[str, Any]) -> dict[str, Any]:
    """The status that cert-manager's CA issuer writes."""
    from cryptography import x509

    assert spec["isCA"]
    pem = outside.sign(x509.load_pem_x509_csr(base64.b64decode(spec["request"]))).public_bytes(Encoding.PEM)
    return {
        "conditions": [{"type": "Ready", "status": "True", "reason": "Issued"}],
        "certificate": base64.b64encode(pem).decode(),
        "ca": base64.b64encode(outside.root_pem.encode()).decode(),
    }


async def test_cert_manager_signs_an_intermediate_and_the_request_is_deleted() -> None:
    clock, outside = Clock(), OutsideCa(now=NOW)
    kube = CertManager(outside)
    provider = await cert_manager(context({"issuerName": "mesh"}, clock, kube=kube))
    wanted = template(clock)
    check_issued(await provider.sign(wanted), wanted, [outside.root], now=NOW)
    assert len(kube.deleted) == 1
    spec = next(iter(kube.requests.values()))["spec"]
    assert spec["issuerRef"] == {"name": "mesh", "kind": "Issuer", "group": "cert-manager.io"}
    assert "cert sign" in spec["usages"]


async def test_a_root_that_the_issuer_keeps_to_itself_is_given_by_hand() -> None:
    clock, outside = Clock(), OutsideCa(now=NOW)
    kube = CertManager(outside)
    kube.keeps_its_root = True
    with pytest.raises(AuthorityError):
        await cert_manager(context({"issuerName": "mesh"}, clock, kube=kube))
    provider = await cert_manager(context({"issuerName": "mesh", "caBundle": outside.root_pem}, clock, kube=kube))
    assert provider.roots == [outside.root]


@pytest.mark.parametrize(("kind", "reason"), [("Ready", "Failed"), ("Ready", "Denied"), ("Denied", "x")])
async def test_a_refusal_of_cert_manager_has_its_sentence(kind: str, reason: str) -> None:
    kube = CertManager(OutsideCa(now=NOW))
    status = "False" if kind == "Ready" else "True"
    kube.status = {"conditions": [{"type": kind, "status": status, "reason": reason, "message": "not for you"}]}
    with pytest.raises(CertManagerError, match="not for you"):
        await cert_manager(context({"issuerName": "mesh"}, Clock(), kube=kube))
    assert kube.deleted


async def test_an_intermediate_whose_names_cannot_be_read_has_its_sentence() -> None:
    outside = OutsideCa(now=NOW)
    der = outside.root.public_bytes(Encoding.DER)
    common = next(iter(outside.root.subject)).value
    assert isinstance(common, str)
    written = b"\x0c" + bytes([len(common)]) + common.encode()
    assert written in der, "a UTF8String"
    # A BIT STRING, which the library decodes only on access.
    odd = der.replace(written, b"\x03" + bytes([len(common)]) + b"\0" * len(common))
    kube = CertManager(outside)
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(odd) + b"-----END CERTIFICATE-----\n"
    kube.status = {"certificate": base64.b64encode(pem).decode()}
    with pytest.raises(CertManagerError, match="names cannot be read"):
        await cert_manager(context({"issuerName": "mesh"}, Clock(), kube=kube))
