"""Builds the conditions of a policy object's status. Pure.

`Accepted`: the compiler uses it; else the compiler's reason. `Programmed`: on how many of the proxies that it concerns
it is in force; never true of an object that is not accepted. `Supported`: whether this build supports all its fields.
`Pinned`: its newest form is recorded and not in force, because a pin holds it back. Conditions of other controllers are
left unchanged, and a condition whose status has not changed keeps its time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shared.io.visible_text import visible

ACCEPTED = "Accepted"
PROGRAMMED = "Programmed"
SUPPORTED = "Supported"
PINNED = "Pinned"
OURS = (ACCEPTED, PROGRAMMED, SUPPORTED, PINNED)
"""Types of the ingestor's conditions."""
_NO_EVENT = ("Progressing", "NotAccepted", "Pinned", "NotAMember")
"""Reasons that end by themselves, follow from another condition, or were requested by a person."""
_NAMED = 3
"""Proxies that a message names."""
_MAX_MESSAGE = 2000
_MAX_REFUSAL = 1000
"""Characters of a proxy's own message that a condition contains."""

Condition = dict[str, Any]


class StatusFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one object, from which its conditions are built."""

    version: int
    """Sequence of its event: the first version that contains it."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Code and sentence of each reason why it, or a part of it, is not used."""
    unsupported: str = ""
    """A sentence about its fields that this build does not support yet; empty if it supports all."""
    concerned: int = 0
    """Connected proxies whose configuration depends on it."""
    waiting: tuple[str, ...] = ()
    """Those that have not acknowledged it, sorted."""
    refused: tuple[tuple[str, str], ...] = ()
    """Those that refused resources, and their messages."""
    pinned: int = 0
    """The version that the mesh is pinned to, if it has another form of the object or none; else 0."""
    outside: bool = False
    """Whether its namespace has left the mesh."""


def reason(code: str) -> str:
    """Returns a stable code as a reason of a condition: `smi/target-sources` becomes `TargetSources`."""
    words = code.rpartition("/")[2].replace("_", "-").split("-")
    return "".join(word[:1].upper() + word[1:] for word in words if word) or "Unknown"


def conditions(
    facts: StatusFacts, *, generation: int, before: Sequence[Mapping[str, Any]], now: str
) -> list[Condition]:
    """Returns all conditions of the object, those of other controllers first. `now` is RFC 3339."""
    built = [_accepted(facts), _programmed(facts)]
    if facts.pinned and not facts.outside:
        built.append((PINNED, "True", "HeldBack", built[0][3]))
    if facts.unsupported:
        built.append((SUPPORTED, "False", "NotSupportedYet", facts.unsupported))
    earlier = {str(each.get("type")): each for each in before}
    made: list[Condition] = [dict(each) for each in before if each.get("type") not in OURS]
    for kind, status, why, message in built:
        was = earlier.get(kind, {})
        since = was.get("lastTransitionTime") if was.get("status") == status else None
        condition: Condition = {"type": kind, "status": status, "reason": why, "message": message[:_MAX_MESSAGE]}
        if generation:
            condition["observedGeneration"] = generation
        made.append(condition | {"lastTransitionTime": since or now})
    return made


def turned_bad(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Returns reason and message of each condition that turned bad, for an event about the object."""
    earlier = {str(each.get("type")): (each.get("status"), each.get("reason")) for each in before}
    found: list[tuple[str, str]] = []
    for each in after:
        bad = each["type"] in OURS and each["status"] == "False" and each["reason"] not in _NO_EVENT
        if bad and earlier.get(str(each["type"])) != (each["status"], each["reason"]):
            found.append((str(each["reason"]), str(each["message"])))
    return found


def _accepted(facts: StatusFacts) -> tuple[str, str, str, str]:
    if facts.outside:
        return ACCEPTED, "False", "NotAMember", "its namespace is not a member of the mesh: it has no effect"
    if facts.pinned:
        recorded = f"recorded at {facts.version} and not in force: the mesh is pinned to version {facts.pinned}"
        return ACCEPTED, "False", "Pinned", f"{recorded}; `meshlog unpin` ends that"
    if facts.left_out:
        code, _ = facts.left_out[0]
        return ACCEPTED, "False", reason(code), "; ".join(sentence for _, sentence in facts.left_out)
    return ACCEPTED, "True", "Accepted", f"in force since version {facts.version}"


def _programmed(facts: StatusFacts) -> tuple[str, str, str, str]:
    if facts.outside or facts.pinned:
        return PROGRAMMED, "False", "NotAccepted", "no proxy is told of it"
    if facts.left_out:
        remains = f"what is used of it concerns {facts.concerned} proxies" if facts.concerned else "no proxy has it"
        return PROGRAMMED, "False", "NotAccepted", remains
    if not facts.concerned:
        return PROGRAMMED, "Unknown", "NoProxies", "no connected proxy depends on it"
    holding = f"on {facts.concerned - len(facts.waiting)} of {facts.concerned} proxies"
    if facts.refused:
        proxy, message = facts.refused[0]
        return PROGRAMMED, "False", "Refused", f"{holding}; {proxy} refused it: {visible(message, most=_MAX_REFUSAL)}"
    if facts.waiting:
        names = ", ".join(facts.waiting[:_NAMED])
        more = len(facts.waiting) - _NAMED
        rest = f" and {more} more" if more > 0 else ""
        return PROGRAMMED, "False", "Progressing", f"{holding}; not yet on {names}{rest}"
    return PROGRAMMED, "True", "Programmed", holding
