"""Checks that the content of a record belongs under its subject: one rule for each stream that guests may write to.

A rule sees the record alone, and returns why it is foreign, or an empty text. A record of a newer build is not foreign:
each reader decides what a record that it cannot decode means.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.errors import MeshlogError
from shared.eventlog.protocol import Record
from shared.io.decoding import UndecodableError
from shared.records import certificate_records, events, pins
from shared.records.certificate_records import CorruptMessageError
from shared.records.events import CorruptEventError, FutureEventError
from shared.records.proxy_status import decode_status
from shared.records.subjects import escape

_UNREADABLE = (MeshlogError, UndecodableError)


def event(record: Record) -> str:
    """An event: its envelope names its subject, and a pin can be put in force."""

    def check() -> str:
        found = events.read(record)
        if found.kind == pins.PIN_KIND:
            pins.in_force_by(found)
        return ""

    return _of_event(check)


def pin(record: Record) -> str:
    """The copy of a pin, under the name of its cluster."""

    def check() -> str:
        found = events.decode(record.payload)
        if found.kind != pins.PIN_KIND or not record.subject.endswith(f".{escape(found.cluster)}"):
            return f"is an event of {found.key} in cluster {found.cluster!r:.100}, and its subject is another's"
        pins.in_force_by(found)
        return ""

    return _of_event(check)


def _of_event(check: Callable[[], str]) -> str:
    """The result of a check that decodes an event; one of a newer build passes, one that is damaged does not."""
    try:
        return check()
    except FutureEventError:
        return ""
    except CorruptEventError as error:
        return error.sentence


def status(record: Record) -> str:
    """The status of a proxy, under the name of its pod."""
    try:
        found = decode_status(record.payload)
    except _UNREADABLE as error:
        return f"cannot be read as a status ({error})"
    if record.subject.endswith(f".status.{escape(found.cluster)}.{escape(found.namespace)}.{escape(found.pod)}"):
        return ""
    return "is the status of another proxy than its subject's"


def request(record: Record) -> str:
    """A signing request, under the name of its requester."""
    try:
        found = certificate_records.decode_request(record.payload)
    except CorruptMessageError as error:
        return error.sentence
    if record.subject.endswith(f".csrs.{escape(found.requester)}"):
        return ""
    return "is a signing request of another requester than its subject's"


def certificate(record: Record) -> str:
    """A trust bundle, an answer under the id of its request, or a note under what it is about."""
    _, _, kind, *rest = [*record.subject.split("."), "", ""]
    tokens = [token for token in rest if token]
    try:
        match kind:
            case "bundle" if len(tokens) == 1:
                certificate_records.decode_bundle(record.payload)
            case "issued" if len(tokens) == 2:
                if escape(certificate_records.decode_answer(record.payload).id) != tokens[1]:
                    return "is the answer to another request than its subject's"
            case "audit" if len(tokens) == 1:
                if escape(certificate_records.decode_note(record.payload).what) != tokens[0]:
                    return "is a note about something else than its subject says"
            case _:
                return f"stands under {record.subject[:200]}, where nothing is written"
    except CorruptMessageError as error:
        return error.sentence
    return ""
