"""What of a MeshConfig its readers cannot use, in their own words: one list for admission, statuses and people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import BadInputError
from shared.meshconfig.certificate_spec import read_certificates
from shared.meshconfig.images import LEAVE_OUT, judged
from shared.meshconfig.pods import read_mesh_spec

Problem = tuple[str, str]
"""A stable code, and a sentence."""
_OTHERWISE = "as before, or by the defaults once their service has started again"
"""A reader keeps the last good form in memory."""


def problems(spec: Mapping[str, Any]) -> tuple[Problem, ...]:
    """What new pods and the CA cannot use of a MeshConfig's `spec`, and what is in force instead."""
    found: list[Problem] = []
    try:
        read_mesh_spec(spec)
    except BadInputError as error:
        found.append((error.code, f"{_told(error)}; until it is mended new pods are made {_OTHERWISE}"))
    try:
        read_certificates(spec)
    except BadInputError as error:
        found.append((error.code, f"{_told(error)}; until it is mended certificates are issued {_OTHERWISE}"))
    found += [
        ("mesh/image", f"{one.field}: {one.sentence}; {LEAVE_OUT}") for one in judged(spec) if one.verdict == "fails"
    ]
    return tuple(found)


def doubts(spec: Mapping[str, Any]) -> list[str]:
    """What may go wrong with it."""
    return [f"{one.field}: {one.sentence}" for one in judged(spec) if one.verdict == "doubtful"]


def _told(error: BadInputError) -> str:
    field = error.about.removeprefix("MeshConfig").strip()
    return f"{field}: {error.sentence}" if field else error.sentence
