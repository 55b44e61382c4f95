"""What the edge's two servers did in one run, side by side: rows, the verdict on each, and the table of docs/xds.md."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

OWN, GRPCIO = "own", "grpc.aio"

RATIO = 1.25
"""How much longer a member may wait on the own server. On a busy machine one run is not enough: `grpc.aio` measured
against itself (AGAINST=itself) is "worse" in some rows too, and more rounds make these fewer."""
SLACK_P50 = 0.005
SLACK_WORST = 0.050
"""Seconds below which a difference is none: on two cores, the attacker and the measuring process take turns with it."""


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One flood on one server."""

    joins: int = 0
    """Fresh joins of a member meanwhile."""
    unserved: int = 0
    """Those that were given up."""
    p50: float = 0.0
    worst: float = 0.0
    """Seconds: TCP, TLS, token, first response."""
    usual_worst: float = 0.0
    """The longest of a round: the median over the rounds, so that one hiccup of the machine decides nothing."""
    lag: float = 0.0
    """Seconds that `/livez`, on the same event loop, took at worst."""
    cpu: float = 0.0
    """Share of a core that the edge took."""
    grown: float = 0.0
    """MB that its memory grew at most."""
    sent: int = 0
    """Units that the attacker got rid of; more is not better: a server that stops reading stops the attacker."""
    closed: int = 0
    """Connections of the attacker that the server ended."""
    stuck: bool = False
    """Whether members were not served as before within 10 s of the flood's end."""


class FloodRow(msgspec.Struct, frozen=True):
    """One flood on both."""

    flood: str
    own: Served
    grpcio: Served

    @property
    def lost(self) -> str:
        """Why the own server is worse here; empty: it is not."""
        own, other = self.own, self.grpcio
        if own.stuck and not other.stuck:
            return "it does not recover"
        if own.unserved > other.unserved:
            return f"{own.unserved} joins were given up, {other.unserved} on {GRPCIO}"
        if _worse(own.p50, other.p50, SLACK_P50):
            return f"p50 {own.p50 / other.p50:.1f} times as long"
        if _worse(own.usual_worst, other.usual_worst, SLACK_WORST):
            return f"the longest {own.usual_worst / other.usual_worst:.1f} times as long"
        return ""


def _worse(own: float, other: float, slack: float) -> bool:
    return own > other * RATIO and own - other > slack


class ClientRow(msgspec.Struct, frozen=True):
    """One case of one client, on both."""

    client: str
    case: str
    own: bool
    grpcio: bool
    detail: str = ""
    """What went wrong on the own server."""


class CostRow(msgspec.Struct, frozen=True):
    """One figure of both."""

    what: str
    own: float
    grpcio: float
    unit: str


class Spec(msgspec.Struct, frozen=True):
    """What h2spec found."""

    passed: int
    cases: int
    failed: tuple[str, ...] = ()


class Comparison(msgspec.Struct, kw_only=True):
    """Everything that one run measured."""

    date: str
    floods: list[FloodRow] = []
    clients: list[ClientRow] = []
    missing: list[str] = []
    """Clients that were not there."""
    costs: list[CostRow] = []
    h2spec: dict[str, Spec] = {}

    def against(self) -> list[str]:
        """Every reason to go back to gRPC's server; none: the own one stays."""
        spec = self.h2spec.get(OWN)
        return [
            *(f"{row.flood}: {row.lost}" for row in self.floods if row.lost),
            *(f"{row.client}, {row.case}: {row.detail}" for row in self.clients if not row.own),
            *([f"h2spec: {spec.passed} of {spec.cases}"] if spec and spec.passed < spec.cases else []),
        ]


def _ms(served: Served, seconds: float) -> str:
    return f"{seconds * 1000:.0f}" if seconds != float("inf") else f"> 5,000 ({served.unserved} not served)"


def markdown(found: Comparison) -> str:
    """The tables of docs/xds.md."""
    out: list[str] = []
    if found.floods:
        out += [
            "| flood | own: p50 / longest (ms) | grpc.aio | CPU, own / grpc.aio | memory, own / grpc.aio (MB) | |",
            "|---|---|---|---|---|---|",
            *(_flood_line(row) for row in found.floods),
            "",
        ]
    if found.clients:
        out += ["| client | cases | own | grpc.aio |", "|---|---|---|---|", *_client_lines(found.clients), ""]
    if found.h2spec:
        shares = " | ".join(f"{one.passed} of {one.cases}" for one in found.h2spec.values())
        out += [f"| h2spec | {' | '.join(found.h2spec)} |", "|---|---|---|", f"| passed | {shares} |", ""]
    if found.costs:
        out += ["| cost | own | grpc.aio | |", "|---|---|---|---|"]
        out += [f"| {row.what} | {row.own:,g} | {row.grpcio:,g} | {row.unit} |" for row in found.costs]
    return "\n".join(out).rstrip()


def _flood_line(row: FloodRow) -> str:
    own, other = row.own, row.grpcio
    cells = (
        row.flood,
        f"{_ms(own, own.p50)} / {_ms(own, own.worst)}",
        f"{_ms(other, other.p50)} / {_ms(other, other.worst)}",
        f"{100 * own.cpu:.0f} % / {100 * other.cpu:.0f} %",
        f"{own.grown:.0f} / {other.grown:.0f}",
        row.lost or "no worse",
    )
    return f"| {' | '.join(cells)} |"


def _client_lines(rows: Sequence[ClientRow]) -> list[str]:
    clients = list(dict.fromkeys(row.client for row in rows))
    lines: list[str] = []
    for client in clients:
        cases = [row for row in rows if row.client == client]
        own, other = sum(row.own for row in cases), sum(row.grpcio for row in cases)
        lines.append(f"| {client} | {len(cases)} | {own} passed | {other} passed |")
    return lines
