"""What is told about a policy object, as the conditions of its status. Pure.

`Accepted`: the compiler uses it; else why not, in the compiler's words. `Programmed`: on how many of the proxies that
it concerns; never true of an object that is not accepted. `Supported`: whether everything that it asks for exists in
this build. `Pinned`: its newest form is recorded and not in force, because a pin holds it back. Conditions of others
are left as they are, and one that says the same as before keeps its time.
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
"""Types of the conditions that are the ingestor's."""
_NO_NEWS = ("Progressing", "NotAccepted", "Pinned", "NotAMember")
"""Reasons that pass by themselves, that follow from another condition, or that somebody has asked for."""
_NAMED = 3
"""Proxies that a message names."""
_MAX_MESSAGE = 2000
_MAX_SAID = 1000
"""Characters of a proxy's own words that a message holds."""

Condition = dict[str, Any]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about one object."""

    version: int
    """Sequence of its event: the first version that it is in."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Code and sentence of each reason why it, or a part of it, is not used."""
    unsupported: str = ""
    """What it asks for and this build does not have yet, in words; empty: nothing."""
    concerned: int = 0
    """Connected proxies whose configuration depends on it."""
    waiting: tuple[str, ...] = ()
    """Those of them that have not acknowledged it, sorted."""
    refused: tuple[tuple[str, str], ...] = ()
    """Those of them that refused what they were sent, and what they said."""
    pinned: int = 0
    """The version that the mesh is pinned to, if that has another form of it or none; 0: it is not."""
    outside: bool = False
    """Whether its namespace is no member of any mesh any more."""


def reason(code: str) -> str:
    """A stable code as Kubernetes wants reasons: `smi/target-sources` is `TargetSources`."""
    words = code.rpartition("/")[2].replace("_", "-").split("-")
    return "".join(word[:1].upper() + word[1:] for word in words if word) or "Unknown"


def conditions(verdict: Verdict, *, generation: int, before: Sequence[Mapping[str, Any]], now: str) -> list[Condition]:
    """All conditions of the object, those of others first. `now` is RFC 3339."""
    told = [_accepted(verdict), _programmed(verdict)]
    if verdict.pinned and not verdict.outside:
        told.append((PINNED, "True", "HeldBack", told[0][3]))
    if verdict.unsupported:
        told.append((SUPPORTED, "False", "NotSupportedYet", verdict.unsupported))
    earlier = {str(each.get("type")): each for each in before}
    made: list[Condition] = [dict(each) for each in before if each.get("type") not in OURS]
    for kind, status, why, message in told:
        was = earlier.get(kind, {})
        since = was.get("lastTransitionTime") if was.get("status") == status else None
        condition: Condition = {"type": kind, "status": status, "reason": why, "message": message[:_MAX_MESSAGE]}
        if generation:
            condition["observedGeneration"] = generation
        made.append(condition | {"lastTransitionTime": since or now})
    return made


def news(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Reason and message of what has turned bad: worth an event that its user sees."""
    earlier = {str(each.get("type")): (each.get("status"), each.get("reason")) for each in before}
    found: list[tuple[str, str]] = []
    for each in after:
        bad = each["type"] in OURS and each["status"] == "False" and each["reason"] not in _NO_NEWS
        if bad and earlier.get(str(each["type"])) != (each["status"], each["reason"]):
            found.append((str(each["reason"]), str(each["message"])))
    return found


def _accepted(verdict: Verdict) -> tuple[str, str, str, str]:
    if verdict.outside:
        return ACCEPTED, "False", "NotAMember", "its namespace is not a member of the mesh: it has no effect"
    if verdict.pinned:
        recorded = f"recorded at {verdict.version} and not in force: the mesh is pinned to version {verdict.pinned}"
        return ACCEPTED, "False", "Pinned", f"{recorded}; `meshlog unpin` ends that"
    if verdict.left_out:
        code, _ = verdict.left_out[0]
        return ACCEPTED, "False", reason(code), "; ".join(sentence for _, sentence in verdict.left_out)
    return ACCEPTED, "True", "Accepted", f"in force since version {verdict.version}"


def _programmed(verdict: Verdict) -> tuple[str, str, str, str]:
    if verdict.outside or verdict.pinned:
        return PROGRAMMED, "False", "NotAccepted", "no proxy is told of it"
    if verdict.left_out:
        remains = f"what is used of it concerns {verdict.concerned} proxies" if verdict.concerned else "no proxy has it"
        return PROGRAMMED, "False", "NotAccepted", remains
    if not verdict.concerned:
        return PROGRAMMED, "Unknown", "NoProxies", "no connected proxy depends on it"
    holding = f"on {verdict.concerned - len(verdict.waiting)} of {verdict.concerned} proxies"
    if verdict.refused:
        proxy, said = verdict.refused[0]
        return PROGRAMMED, "False", "Refused", f"{holding}; {proxy} refused it: {visible(said, most=_MAX_SAID)}"
    if verdict.waiting:
        names = ", ".join(verdict.waiting[:_NAMED])
        more = len(verdict.waiting) - _NAMED
        rest = f" and {more} more" if more > 0 else ""
        return PROGRAMMED, "False", "Progressing", f"{holding}; not yet on {names}{rest}"
    return PROGRAMMED, "True", "Programmed", holding
