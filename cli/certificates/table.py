"""Rows on the certificates in the log, for people and machines."""

from __future__ import annotations

from collections import deque
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cli.certificates.roots import CertificateClient
from cli.terminal.times import timestamp
from shared.errors import BadInputError, MeshlogError
from shared.eventlog.protocol import Record
from shared.records.certificate_records import CorruptMessageError, SigningAnswer, decode_answer, decode_note
from shared.records.subjects import unescape

Row = dict[str, Any]


async def listing(client: CertificateClient) -> list[Row]:
    """The roots, the signing one first, then the certificate of each proxy that is connected or has a pod."""
    bundle, wanted, note = await client.bundle(), await client.roots(), await client.note()
    rows: list[Row] = []
    for index, (member, pem) in enumerate(zip(bundle.members, bundle.roots, strict=True)):
        certificate = _certificate(pem)
        rows.append(
            {
                "what": "root",
                "name": member.name,
                "state": "signs" if index == 0 else "trusted",
                "wanted": wanted[member.name].role if member.name in wanted else "",
                "trust-domain": member.trust_domain,
                "expires": timestamp(certificate.not_valid_after_utc.timestamp()) if certificate else "unreadable",
            }
        )
    held = {member.name for member in bundle.members}
    rows += [
        {"what": "root", "name": root.name, "state": "unused", "wanted": root.role, "trust-domain": root.trust_domain}
        for root in wanted.values()
        if root.name not in held
    ]
    if note is not None and note.code != "rotation/steady":
        rows.append({"what": "rotation", "step": note.code.partition("/")[2], "why": note.why, "waiting": note.waiting})
    pods = await client.pods()
    proxies = [one for one in await client.proxies() if one.connected or one.uid in pods]
    for proxy in sorted(proxies, key=lambda one: (one.namespace, one.pod)):
        rows.append(
            {
                "what": "proxy",
                "name": f"{proxy.namespace}/{proxy.pod}",
                "state": "connected" if proxy.connected else "away",
                "root": _root_of(proxy.certificate_bundle, bundle.signing_since),
                "bundle": proxy.bundle,
                "expires": timestamp(proxy.certificate_until) if proxy.certificate_until else "no certificate",
            }
        )
    return rows


async def one(client: CertificateClient, which: str) -> Row:
    """The newest certificate of a pod, or the one with a serial; raises `BadInputError` if there is none."""
    serial = which.lower().replace(":", "")
    found: SigningAnswer | None = None
    async for record in client.certs.read(subjects=client.streams.all_issued):
        answer = _answer(record)
        if answer is not None and not answer.refused and (answer.pod == which or answer.serial == serial):
            found = answer
    if found is None:
        raise BadInputError("certificate/unknown", "the log holds no certificate of this pod or serial", about=which)
    leaf = _certificate(found.chain[0]) if found.chain else None
    return {
        "identity": found.spiffe_id,
        "pod": found.pod,
        "serial": found.serial,
        "not before": timestamp(found.not_before),
        "not after": timestamp(found.not_after),
        "root": found.root,
        "issuer": leaf.issuer.rfc4514_string() if leaf else "unreadable",
        "dns names": _dns_names(leaf) if leaf else "unreadable",
        "key": type(leaf.public_key()).__name__.removesuffix("PublicKey") if leaf else "unreadable",
        "token": found.token_id or "no id",
        "bundle": found.bundle_serial,
        "certificate": "".join(map(_as_pem, found.chain)).strip(),
    }


async def audit(client: CertificateClient, lines: int) -> list[Row]:
    """The newest entries of the audit trail, the newest last."""
    rows: deque[Row] = deque(maxlen=max(1, lines))
    async for record in client.certs.read():
        row = _entry(record)
        if row is not None:
            rows.append(row)
    return list(rows)


def _entry(record: Record) -> Row | None:
    _, _, kind, *rest = [*record.subject.split("."), "", "", ""]
    when = timestamp(record.time / 1e9)
    try:
        if kind == "issued":
            answer = decode_answer(record.payload)
            if answer.refused:
                return None  # the audit note of the refusal has the reason
            return {
                "time": when,
                "what": "issued",
                "identity": answer.spiffe_id,
                "serial": answer.serial,
                "until": timestamp(answer.not_after),
                "pod": answer.pod,
                "token": answer.token_id,
                "root": answer.root,
                "requester": _requester(rest[0]),
            }
        if kind == "audit":
            note = decode_note(record.payload)
            waiting = f"waiting for {note.waiting_count}: {'; '.join(note.waiting[:3])}" if note.waiting else ""
            return {
                "time": when,
                "what": note.what,
                "code": note.code,
                "asked_for": note.asked_for,
                "requester": note.requester,
                "why": note.why,
                "waiting": waiting,
            }
    except CorruptMessageError:
        return {"time": when, "what": "unreadable", "sequence": record.sequence}
    return None


def _answer(record: Record) -> SigningAnswer | None:
    try:
        return decode_answer(record.payload)
    except CorruptMessageError:
        return None


def _root_of(certificate_bundle: int, signing_since: int) -> str:
    if not certificate_bundle:
        return "none"
    return "the signing one" if certificate_bundle >= signing_since else "an older one"


def _requester(token: str) -> str:
    """The name that a subject's token encodes; the token itself if it encodes none."""
    try:
        return unescape(token)
    except MeshlogError:
        return token


def _certificate(pem: str) -> x509.Certificate | None:
    """The certificate; None if it cannot be parsed, so that the rest of the log is still shown."""
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        return None


def _as_pem(pem: str) -> str:
    """The certificate alone, without the text around it."""
    found = _certificate(pem)
    return found.public_bytes(Encoding.PEM).decode() if found else "unreadable\n"


def _dns_names(leaf: x509.Certificate) -> str:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return "none"
    return ", ".join(names.get_values_for_type(x509.DNSName)) or "none"
