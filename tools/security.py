"""Write the generated tables of docs/security.md: what each credential may do, and the limits with their settings.

`python -P tools/security.py` writes them again; a test compares the page with the code.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cli import file_limits
from deploy.install.control_plane import control_plane
from deploy.install.profile import PRESETS
from deploy.nats import NatsUser, service_users
from services.ca.settings import CaSettings
from services.injector.settings import InjectorSettings
from services.xds_edge.settings import EdgeSettings
from shared.records.subjects import Streams
from shared.service.settings import documented

PAGE = Path(__file__).parents[1] / "docs" / "security.md"
LIMITS: tuple[tuple[str, type[msgspec.Struct], tuple[str, ...]], ...] = (
    (
        "xds-edge",
        EdgeSettings,
        (
            *("connections", "connections_per_address", "waiting_connections", "unproven_connections"),
            *("new_connections_per_address", "handshake_timeout", "prove_within", "idle_timeout"),
            *("most_streams", "streams_per_pod", "request_bytes", "unread_bytes", "write_timeout", "peer_address"),
        ),
    ),
    ("ca", CaSettings, ("lifetime", "clock_skew")),
    ("injector", InjectorSettings, ("token_seconds",)),
)
"""Which settings of which service bound what others can make it do."""


def users() -> list[list[str]]:
    """Users of the log: what they may write, and which streams they may read."""
    streams = Streams()
    names = ("ingestor", "compiler", "xds-edge", "ca", "injector", "operator", "reader")
    found = service_users(streams, dict.fromkeys(names, "$PASSWORD"))
    return [[f"`{user.name}`", _codes(writes(user)), _codes(reads(user))] for user in found]


def writes(user: NatsUser) -> list[str]:
    """Subjects of records that the user may publish."""
    given = getattr(user, "publish", ()) or [call.subject for call in getattr(user, "calls", ())]
    return sorted({subject for subject in given if not subject.startswith("$")})


def reads(user: NatsUser) -> list[str]:
    """Streams that the user may read."""
    given = getattr(user, "publish", ()) or [call.subject for call in getattr(user, "calls", ())]
    start = "$JS.API.STREAM.MSG.GET."
    return sorted({subject.removeprefix(start) for subject in given if subject.startswith(start)})


def rights() -> list[list[str]]:
    """Rules of the service accounts in the Kubernetes API, of the preset `ha`."""
    rows: list[list[str]] = []
    for one in control_plane(PRESETS["ha"]):
        if one["kind"] in {"ClusterRole", "Role"}:
            account = "meshlog-" + one["metadata"]["name"].removeprefix("meshlog-").partition("-")[0]
            where = "every namespace" if one["kind"] == "ClusterRole" else f"`{one['metadata']['namespace']}`"
            rows += [[f"`{account}`", where, *_rule(rule)] for rule in one["rules"]]
    return rows


def _rule(rule: dict[str, Any]) -> list[str]:
    things = [f"{one}.{group}" if group else one for group in rule["apiGroups"] for one in rule["resources"]]
    return [
        ", ".join(rule["verbs"]),
        _codes(things),
        _codes(rule.get("resourceNames", ())) if "resourceNames" in rule else "any",
    ]


def limits() -> list[list[str]]:
    """Settings that bound what others can make a service do."""
    rows: list[list[str]] = []
    for service, settings, names in LIMITS:
        texts = documented(settings)
        defaults = {field.name: field.default for field in msgspec.structs.fields(settings)}
        rows += [
            [service, f"`--{name.replace('_', '-')}`", str(defaults[name]), texts[name].replace("|", "\\|")]
            for name in names
        ]
    return [*rows, *([f"`meshlog {verbs}`", name, value, what] for verbs, name, value, what in file_limits.LIMITS)]


TABLES: dict[str, tuple[tuple[str, ...], Any]] = {
    "users": (("User of the log", "May write", "May read"), users),
    "rights": (("Account", "Where", "Verbs", "Resources", "Names"), rights),
    "limits": (("Of", "Setting", "Default", "What it bounds"), limits),
}


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def rendered(page: str) -> str:
    """The page with its tables as the code has them now."""
    for name, (headings, rows) in TABLES.items():
        begin, end = f"<!-- {name}: written by tools/security.py -->\n", f"<!-- end of {name} -->"
        head, _, rest = page.partition(begin)
        tail = rest.partition(end)[2]
        page = f"{head}{begin}{table(headings, rows())}\n{end}{tail}"
    return page


def _codes(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words) or "nothing"


def main() -> int:
    """Write the page again."""
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
