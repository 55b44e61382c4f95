"""The table of checks, in the order in which a person should repair.

Each row: what is well, which fact it reads, how bad it is if not, what to do, and by which metric, reason of `/readyz`
and condition of objects the services themselves say so. docs/health.md is this table, and a test holds it to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cli.health.facts import ClusterFacts, Facts, LogFacts, Workload
from cli.health.finding import Check, Finding, Found, Result, Signal, Verdict
from cli.moments import timestamp

STUCK = 300.0
"""Seconds after which a rotation that waits for the same proxies counts as stuck."""
_AWAY = frozenset({"gone", "never connected"})
_NAMED = 5
"""Names in one sentence."""
_LATE_LEADERS = {"ingestor": "changes in Kubernetes do not reach the log", "compiler": "changes reach no proxy"}


def judged(facts: Facts, checks: Iterable[Check] | None = None) -> list[Result]:
    """Every check of the table over these facts."""
    return [_judge(check, facts) for check in (CHECKS if checks is None else checks)]


def findings(results: Iterable[Result]) -> list[Finding]:
    """What was found, errors first."""
    found = [finding for result in results for finding in result.findings]
    return sorted(found, key=lambda finding: finding.severity != "error")


def unknown(results: Iterable[Result]) -> list[Result]:
    """Checks that could not look."""
    return [result for result in results if result.state == "unknown"]


def _judge(check: Check, facts: Facts) -> Result:
    missing = _missing(check, facts)
    if missing:
        return Result(check.name, check.what, "unknown", missing, ())
    verdict = check.judge(facts)
    found = tuple(Finding(check.name, check.severity, one.about, one.sentence, check.remedy) for one in verdict.found)
    return Result(check.name, check.what, "found" if found else "well", verdict.seen, found)


def _missing(check: Check, facts: Facts) -> str:
    """Why a check cannot look; empty: it can."""
    if check.name in {"api", "log"}:
        asked = facts.cluster or facts.cluster_away if check.name == "api" else facts.log or facts.log_away
        return "" if asked else "it was not asked for"
    if check.reads == "cluster":
        return (
            "" if facts.cluster else "Kubernetes cannot be asked" if facts.cluster_away else "Kubernetes is not asked"
        )
    if facts.log is None:
        return "the log cannot be read" if facts.log_away else "the log is not asked"
    if check.name in {"leader", "working"} and facts.log.leases is None:
        return "a file cannot say who leads"
    return ""


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _cluster(judge: Callable[[ClusterFacts], Verdict]) -> Callable[[Facts], Verdict]:
    def over(facts: Facts) -> Verdict:
        assert facts.cluster is not None
        return judge(facts.cluster)

    return over


def _log(judge: Callable[[LogFacts, Facts], Verdict]) -> Callable[[Facts], Verdict]:
    def over(facts: Facts) -> Verdict:
        assert facts.log is not None
        return judge(facts.log, facts)

    return over


# Kubernetes


def _api(facts: Facts) -> Verdict:
    found = (Found("", facts.cluster_away),) if facts.cluster_away else ()
    return Verdict(found, "answers")


def _replicas(cluster: ClusterFacts) -> Verdict:
    found = [Found(one.name, _lacking(one, cluster)) for one in cluster.workloads if _lacks(one)]
    seen = [f"{one.name} {one.ready}/{one.wanted}" for one in cluster.workloads]
    external = ["the log is an external one: look at it where it runs"] if cluster.external_log else []
    return Verdict(tuple(found), ", ".join([*seen, *external]))


def _lacks(one: Workload) -> bool:
    return not one.installed or not one.wanted or one.ready < one.wanted


def _lacking(one: Workload, cluster: ClusterFacts) -> str:
    if not one.installed:
        return f"{one.name} is not installed in {cluster.namespace}; `meshlog upgrade` brings it back"
    if not one.wanted:
        return f"{one.name}: 0 of 0 ready: it is scaled to zero; `kubectl scale` brings it back"
    return f"{one.name}: {one.ready} of {one.wanted} ready: {one.trouble or 'no pod says why'}"


def _webhook(cluster: ClusterFacts) -> Verdict:
    return Verdict((Found("", cluster.webhook),) if cluster.webhook else (), "trusts the mesh's CA")


def _bundle(cluster: ClusterFacts) -> Verdict:
    found = (Found("", "the CA has published no trust bundle"),) if not cluster.roots else ()
    return Verdict(found, f"{cluster.roots} root{'s' * (cluster.roots != 1)}")


def _mesh_config(cluster: ClusterFacts) -> Verdict:
    return Verdict((Found("", f"MeshConfig {cluster.mesh_config}"),) if cluster.mesh_config else (), "is there")


def _sidecars(cluster: ClusterFacts) -> Verdict:
    found = (Found("", f"{_some(cluster.bare)} run without a sidecar: created before"),) if cluster.bare else ()
    return Verdict(found, "every pod of the members that wants one has one")


def _probe_ports(cluster: ClusterFacts) -> Verdict:
    sentence = (
        f"those of {_some(cluster.opened)} let any request of anybody through to the application, past the policy: an "
        "older build injected these pods"
    )
    return Verdict((Found("", sentence),) if cluster.opened else (), "let nothing but probes through")


# The log


def _readable(facts: Facts) -> Verdict:
    found = (Found("", facts.log_away),) if facts.log_away else ()
    return Verdict(found, "answers")


def _working(log: LogFacts, _: Facts) -> Verdict:
    found = [
        Found(one.service, f"the leading {one.service} {one.holder} cannot go on: {one.trouble}")
        for one in log.leases or ()
        if one.trouble
    ]
    return Verdict(tuple(found), "say of themselves that they can work")


def _leader(log: LogFacts, facts: Facts) -> Verdict:
    vacant = [one for one in log.leases or () if one.vacant]
    found: list[Found] = []
    for one in vacant:
        was = f", {one.holder} was the last" if one.holder else ""
        found.append(Found(one.service, f"nobody leads the {one.service}s{was}: {_LATE_LEADERS[one.service]}"))
    if len(vacant) > 1 and _runs(facts):
        found.append(Found("log", "no service renews its lease though some run: the log takes no writes"))
    return Verdict(tuple(found), ", ".join(f"{one.holder} leads the {one.service}s" for one in log.leases or ()))


def _runs(facts: Facts) -> bool:
    leading = {f"meshlog-{name}" for name in _LATE_LEADERS}
    return facts.cluster is not None and any(one.name in leading and one.wanted for one in facts.cluster.workloads)


def _published(log: LogFacts, _: Facts) -> Verdict:
    found = [
        Found(one.service, f"{one.service}: {one.sentence}")
        for one in log.lags
        if one.service == "compiler" and log.unpublished
    ]
    return Verdict(tuple(found), "every event that changes configuration is published")


def _signed(log: LogFacts, _: Facts) -> Verdict:
    sentence = f"ca: up to {log.unsigned} signing requests wait for an answer: who has no certificate gets none"
    return Verdict((Found("ca", sentence),) if log.unsigned else (), "no signing request waits")


def _proxies(state: str, meaning: str) -> Callable[[Facts], Verdict]:
    def over(log: LogFacts, _: Facts) -> Verdict:
        found = [
            Found(one.proxy, f"proxy {one.proxy} is {state} ({one.reason}): {meaning}")
            for one in log.standing.proxies
            if one.state == state
        ]
        return Verdict(tuple(found), f"none of {len(log.standing.proxies)} proxies is")

    return _log(over)


def _ended(log: LogFacts, facts: Facts) -> Verdict:
    """Of proxies that are connected: what a certificate of one that is gone says is of no use to anybody."""
    held = [one for one in log.standing.proxies if one.certificate_until and one.state not in _AWAY]
    found = [
        Found(
            one.proxy,
            f"proxy {one.proxy} has a certificate that ended at {timestamp(one.certificate_until)}: it gets no new "
            "one, and calls by it or to it fail",
        )
        for one in held
        if one.certificate_until * 1_000_000_000 <= facts.now
    ]
    return Verdict(tuple(found), f"{len(held)} are")


def _left_out(log: LogFacts, _: Facts) -> Verdict:
    found = [Found(name, f"left out: {name}: {why} [{code}]") for name, code, why in log.standing.quarantine]
    return Verdict(tuple(found), "every object is in force")


def _pin(log: LogFacts, _: Facts) -> Verdict:
    pinned = log.standing.pinned
    sentence = f"the mesh is {pinned}; newer policy is recorded and not in force"
    return Verdict((Found("", sentence),) if pinned else (), "the newest policy is in force")


def _rotation(log: LogFacts, facts: Facts) -> Verdict:
    now = log.rotation
    if now is None or not now.under_way or _is_stuck(log, facts):
        return Verdict((), f"{now.roots[0]} signs" if now is not None and now.roots else "no root was published")
    return Verdict((Found("", f"a rotation is under way: {_waits(log)}"),))


def _stuck(log: LogFacts, facts: Facts) -> Verdict:
    if not _is_stuck(log, facts):
        return Verdict((), "no rotation waits for long")
    assert log.rotation is not None
    refused = log.rotation.step == "refused"
    minutes = (facts.now - log.rotation.since) / 60e9
    head = "the CA cannot go on" if refused else f"a rotation has waited for {minutes:.0f} minutes"
    return Verdict((Found("", f"{head}: {_waits(log)}"),))


def _is_stuck(log: LogFacts, facts: Facts) -> bool:
    now = log.rotation
    if now is None:
        return False
    if now.step == "refused":
        return True
    return now.under_way and bool(now.waiting) and facts.now - now.since > STUCK * 1e9


def _waits(log: LogFacts) -> str:
    now = log.rotation
    assert now is not None
    names = "; ".join(now.waiting[:_NAMED])
    more = f" and {now.count - _NAMED} more" if now.count > _NAMED else ""
    waits = f"; it waits for: {names}{more}" if names else ""
    return f"roots {', '.join(now.roots)} are trusted; step {now.step}{f': {now.why}' if now.why else ''}{waits}"


_PROXIES = (("ingestor", "proxies"),)
_LOGS = "`meshlog logs meshlog-system/NAME` says more"

CHECKS: tuple[Check, ...] = (
    Check(
        name="api",
        what="the Kubernetes API answers",
        reads="cluster",
        severity="error",
        judge=_api,
        remedy="proxies keep what they have; changes wait until it answers again",
        readyz=(("ingestor", "cluster"),),
        signals=(Signal(family="meshlog_ready", labels=(("service", "ingestor"),), total="sum", below=1),),
    ),
    Check(
        name="log",
        what="the log answers",
        reads="log",
        severity="error",
        judge=_readable,
        remedy="proxies keep what they have; changes wait: look at the servers of NATS",
        readyz=(("ingestor", "lease"), ("compiler", "lease")),
        signals=(Signal(family="meshlog_lease_vacant", above=0),),
    ),
    Check(
        name="replicas",
        what="every service has its replicas",
        reads="cluster",
        severity="error",
        judge=_cluster(_replicas),
        remedy=_LOGS,
        signals=tuple(
            Signal(family="meshlog_ready", labels=(("service", name),), total="sum", below=1)
            for name in ("ingestor", "compiler", "ca", "xds-edge", "injector")
        ),
    ),
    Check(
        name="leader",
        what="an ingestor and a compiler lead",
        reads="log",
        severity="error",
        judge=_log(_leader),
        remedy="`kubectl -n meshlog-system get pods`; their `/readyz` says why each stands by",
        readyz=(("ingestor", "lease"), ("compiler", "lease")),
        signals=(
            Signal(family="meshlog_ingestor_leads", total="sum", below=1),
            Signal(family="meshlog_compiler_leads", total="sum", below=1),
        ),
    ),
    Check(
        name="working",
        what="the replicas that lead can work",
        reads="log",
        severity="error",
        judge=_log(_working),
        remedy="changes wait, none is lost: mend what the sentence names (docs/reliability.md)",
        readyz=(("ingestor", "cluster"), ("compiler", "events"), ("compiler", "commits")),
        signals=(Signal(family="meshlog_leader_trouble", above=0), Signal(family="meshlog_ingestor_log_full", above=0)),
    ),
    Check(
        name="published",
        what="every event is published",
        reads="log",
        severity="error",
        judge=_log(_published),
        remedy="`meshlog logs meshlog-system/meshlog-compiler` says more",
    ),
    Check(
        name="signing",
        what="signing requests are answered",
        reads="log",
        severity="error",
        judge=_log(_signed),
        remedy="`meshlog certificate audit`; `meshlog logs meshlog-system/meshlog-ca`",
    ),
    Check(
        name="webhook",
        what="the injector's webhook",
        reads="cluster",
        severity="error",
        judge=_cluster(_webhook),
        remedy="`meshlog upgrade` brings it back",
    ),
    Check(
        name="trust-bundle",
        what="the trust bundle is published",
        reads="cluster",
        severity="error",
        judge=_cluster(_bundle),
        remedy="`meshlog logs meshlog-system/meshlog-ca` says more",
    ),
    Check(
        name="mesh-config",
        what="the mesh has its MeshConfig",
        reads="cluster",
        severity="warning",
        judge=_cluster(_mesh_config),
        remedy="`kubectl -n meshlog-system edit meshconfig osm-mesh-config` (docs/mesh-config.md)",
    ),
    Check(
        name="refusing",
        what="no proxy refuses its configuration",
        reads="log",
        severity="error",
        judge=_proxies("refusing", "it goes on with what it held before"),
        remedy="`meshlog why NS/POD` names the objects it comes from; `meshlog rollback HEAD~1` takes them back",
        readyz=_PROXIES,
        signals=(Signal(family="meshlog_mesh_proxies", labels=(("state", "refusing"),), above=0),),
        condition="Programmed=False, reason Refused",
    ),
    Check(
        name="behind",
        what="no proxy is behind",
        reads="log",
        severity="warning",
        judge=_proxies("behind", "until it has acknowledged, it goes on with what it holds"),
        remedy="`meshlog rollout --last`",
        readyz=_PROXIES,
        signals=(Signal(family="meshlog_mesh_proxies", labels=(("state", "behind"),), above=0),),
        condition="Programmed=False, reason Progressing",
    ),
    Check(
        name="gone",
        what="no proxy is gone",
        reads="log",
        severity="error",
        judge=_proxies("gone", "no edge can reach it: it goes on with what it held, if it still runs"),
        remedy="does its pod run, and does an edge? `meshlog logs NS/POD -c envoy`",
        readyz=_PROXIES,
        signals=(Signal(family="meshlog_mesh_proxies", labels=(("state", "gone"),), above=0),),
    ),
    Check(
        name="never-connected",
        what="every proxy has connected",
        reads="log",
        severity="warning",
        judge=_proxies("never connected", "it has received nothing, so calls by it or to it fail"),
        remedy="does its pod run? `meshlog logs NS/POD -c envoy`",
        readyz=_PROXIES,
        signals=(Signal(family="meshlog_mesh_proxies", labels=(("state", "never connected"),), above=0),),
    ),
    Check(
        name="certificates",
        what="the certificates of connected proxies are valid",
        reads="log",
        severity="error",
        judge=_log(_ended),
        remedy="`meshlog certificate audit` says why; recreate a pod whose ServiceAccount was deleted and made anew",
    ),
    Check(
        name="left-out",
        what="no object is left out",
        reads="log",
        severity="warning",
        judge=_log(_left_out),
        remedy="mend the object as the sentence says; its status in Kubernetes says the same",
        readyz=(("compiler", "left out"),),
        signals=(Signal(family="meshlog_compiler_quarantined", above=0),),
        condition="Accepted=False",
    ),
    Check(
        name="pin",
        what="the mesh is not pinned",
        reads="log",
        severity="warning",
        judge=_log(_pin),
        remedy="`meshlog unpin` puts the newest policy in force",
        readyz=(("compiler", "pin"),),
        signals=(Signal(family="meshlog_compiler_pinned", above=0),),
        condition="Pinned=True",
    ),
    Check(
        name="rotation",
        what="no rotation of the root is under way",
        reads="log",
        severity="warning",
        judge=_log(_rotation),
        remedy="`meshlog certificate rotate` goes on with it, `rotate --back` takes it back",
        readyz=(("ca", "rotation"),),
        signals=(Signal(family="meshlog_ca_trusted_roots", above=1),),
        condition="of the MeshRootCertificate",
    ),
    Check(
        name="rotation-stuck",
        what="no rotation of the root is stuck",
        reads="log",
        severity="error",
        judge=_log(_stuck),
        remedy="bring back or delete the pods that it waits for, or `meshlog certificate rotate --back`",
        readyz=(("ca", "rotation"),),
        signals=(Signal(family="meshlog_ca_rotation_waits_seconds", above=STUCK),),
        condition="of the MeshRootCertificate",
    ),
    Check(
        name="sidecars",
        what="pods that want a sidecar have one",
        reads="cluster",
        severity="warning",
        judge=_cluster(_sidecars),
        remedy="recreate them",
    ),
    Check(
        name="probe-ports",
        what="probe ports let nothing but probes through",
        reads="cluster",
        severity="error",
        judge=_cluster(_probe_ports),
        remedy="restart these pods",
    ),
)
