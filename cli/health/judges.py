"""The function of each check of the table, from facts to a judgement; pure."""

from __future__ import annotations

from collections.abc import Callable

from cli.health.facts import ClusterFacts, HealthFacts, LogFacts, WorkloadReadiness
from cli.health.finding import Fault, Judgement
from cli.terminal.times import timestamp

STUCK = 300.0
"""Seconds after which a rotation that waits for the same proxies counts as stuck."""
_AWAY = frozenset({"gone", "never connected"})
_NAMED = 5
"""Maximum number of names in one sentence."""
_LATE_LEADERS = {"ingestor": "changes in Kubernetes do not reach the log", "compiler": "changes reach no proxy"}


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def of_cluster(judge: Callable[[ClusterFacts], Judgement]) -> Callable[[HealthFacts], Judgement]:
    """A check that reads the facts of Kubernetes."""

    def over(facts: HealthFacts) -> Judgement:
        assert facts.cluster is not None
        return judge(facts.cluster)

    return over


def of_log(judge: Callable[[LogFacts, HealthFacts], Judgement]) -> Callable[[HealthFacts], Judgement]:
    """A check that reads the facts of the log."""

    def over(facts: HealthFacts) -> Judgement:
        assert facts.log is not None
        return judge(facts.log, facts)

    return over


# Kubernetes


def api(facts: HealthFacts) -> Judgement:
    """Whether the Kubernetes API answers."""
    found = (Fault("", facts.cluster_away),) if facts.cluster_away else ()
    return Judgement(found, "answers")


def replicas(cluster: ClusterFacts) -> Judgement:
    """Whether each Deployment, and the log's StatefulSet, has its replicas ready."""
    found = [Fault(one.name, _lacking(one, cluster)) for one in cluster.workloads if _lacks(one)]
    seen = [f"{one.name} {one.ready}/{one.wanted}" for one in cluster.workloads]
    external = ["the log is an external one: look at it where it runs"] if cluster.external_log else []
    return Judgement(tuple(found), ", ".join([*seen, *external]))


def _lacks(one: WorkloadReadiness) -> bool:
    return not one.installed or not one.wanted or one.ready < one.wanted


def _lacking(one: WorkloadReadiness, cluster: ClusterFacts) -> str:
    if not one.installed:
        return f"{one.name} is not installed in {cluster.namespace}; `meshlog upgrade` brings it back"
    if not one.wanted:
        return f"{one.name}: 0 of 0 ready: it is scaled to zero; `kubectl scale` brings it back"
    return f"{one.name}: {one.ready} of {one.wanted} ready: {one.trouble or 'no pod says why'}"


def webhook(cluster: ClusterFacts) -> Judgement:
    """Whether the injector's webhook exists and the API server can trust its server."""
    return Judgement((Fault("", cluster.webhook),) if cluster.webhook else (), "trusts the mesh's CA")


def bundle(cluster: ClusterFacts) -> Judgement:
    """Whether the control plane's namespace has a trust bundle."""
    found = (Fault("", "the CA has published no trust bundle"),) if not cluster.roots else ()
    return Judgement(found, f"{cluster.roots} root{'s' * (cluster.roots != 1)}")


def mesh_config(cluster: ClusterFacts) -> Judgement:
    """Whether the MeshConfig exists, and each of its fields has an effect."""
    return Judgement((Fault("", f"MeshConfig {cluster.mesh_config}"),) if cluster.mesh_config else (), "is there")


def sidecars(cluster: ClusterFacts) -> Judgement:
    """Whether each pod that wants a sidecar has one."""
    found = (Fault("", f"{_some(cluster.bare)} run without a sidecar: created before"),) if cluster.bare else ()
    return Judgement(found, "every pod of the members that wants one has one")


def probe_ports(cluster: ClusterFacts) -> Judgement:
    """Whether some sidecar forwards more than probes on its probe ports."""
    sentence = (
        f"those of {_some(cluster.opened)} let any request through to the application, past the policy: an "
        "older build injected these pods"
    )
    return Judgement((Fault("", sentence),) if cluster.opened else (), "let nothing but probes through")


# The log


def readable(facts: HealthFacts) -> Judgement:
    """Whether the log answers."""
    found = (Fault("", facts.log_away),) if facts.log_away else ()
    return Judgement(found, "answers")


def working(log: LogFacts, _: HealthFacts) -> Judgement:
    """Whether a leader reports that it cannot work."""
    found = [
        Fault(one.service, f"the leading {one.service} {one.holder} cannot go on: {one.trouble}")
        for one in log.leases or ()
        if one.trouble
    ]
    return Judgement(tuple(found), "say of themselves that they can work")


def leader(log: LogFacts, facts: HealthFacts) -> Judgement:
    """Whether each lease is held. If both are vacant while services run, the log takes no writes."""
    vacant = [one for one in log.leases or () if one.vacant]
    found: list[Fault] = []
    for one in vacant:
        was = f", {one.holder} was the last" if one.holder else ""
        found.append(Fault(one.service, f"no {one.service} leads{was}: {_LATE_LEADERS[one.service]}"))
    if len(vacant) > 1 and _runs(facts):
        found.append(Fault("log", "no service renews its lease though some run: the log takes no writes"))
    return Judgement(tuple(found), ", ".join(f"{one.holder} leads the {one.service}s" for one in log.leases or ()))


def _runs(facts: HealthFacts) -> bool:
    leading = {f"meshlog-{name}" for name in _LATE_LEADERS}
    return facts.cluster is not None and any(one.name in leading and one.wanted for one in facts.cluster.workloads)


def published(log: LogFacts, _: HealthFacts) -> Judgement:
    """Whether events wait to be published."""
    found = [
        Fault(one.service, f"{one.service}: {one.sentence}")
        for one in log.lags
        if one.service == "compiler" and log.unpublished
    ]
    return Judgement(tuple(found), "every event that changes configuration is published")


def signed(log: LogFacts, _: HealthFacts) -> Judgement:
    """Whether signing requests wait."""
    sentence = f"ca: up to {log.unsigned} signing requests wait for an answer: a proxy without a certificate gets none"
    return Judgement((Fault("ca", sentence),) if log.unsigned else (), "no signing request waits")


def proxies(state: str, meaning: str) -> Callable[[HealthFacts], Judgement]:
    """Whether some proxy is in this state; `meaning`: the consequence for its calls."""

    def over(log: LogFacts, _: HealthFacts) -> Judgement:
        found = [
            Fault(one.proxy, f"proxy {one.proxy} is {state} ({one.reason}): {meaning}")
            for one in log.standing.proxies
            if one.state == state
        ]
        return Judgement(tuple(found), f"none of {len(log.standing.proxies)} proxies is")

    return of_log(over)


def ended(log: LogFacts, facts: HealthFacts) -> Judgement:
    """Whether a connected proxy's certificate has expired; that of a disconnected one serves no call."""
    held = [one for one in log.standing.proxies if one.certificate_until and one.state not in _AWAY]
    found = [
        Fault(
            one.proxy,
            f"proxy {one.proxy} has a certificate that ended at {timestamp(one.certificate_until)}: it gets no new "
            "one, and calls by it or to it fail",
        )
        for one in held
        if one.certificate_until * 1_000_000_000 <= facts.now
    ]
    return Judgement(tuple(found), f"{len(held)} are")


def left_out(log: LogFacts, _: HealthFacts) -> Judgement:
    """Whether some object is left out of the newest version."""
    found = [Fault(name, f"left out: {name}: {why} [{code}]") for name, code, why in log.standing.quarantine]
    return Judgement(tuple(found), "every object is in force")


def pin(log: LogFacts, _: HealthFacts) -> Judgement:
    """Whether a pin holds newer policy back."""
    pinned = log.standing.pinned
    sentence = f"the mesh is {pinned}; newer policy is recorded and not in force"
    return Judgement((Fault("", sentence),) if pinned else (), "the newest policy is in force")


def rotation(log: LogFacts, facts: HealthFacts) -> Judgement:
    """Whether a rotation is under way, and not stuck."""
    now = log.rotation
    if now is None or not now.under_way or _is_stuck(log, facts):
        return Judgement((), f"{now.roots[0]} signs" if now is not None and now.roots else "no root was published")
    return Judgement((Fault("", f"a rotation is under way: {_waits(log)}"),))


def stuck(log: LogFacts, facts: HealthFacts) -> Judgement:
    """Whether a rotation has waited for the same proxies for `STUCK` seconds, or cannot continue."""
    if not _is_stuck(log, facts):
        return Judgement((), "no rotation waits for long")
    assert log.rotation is not None
    refused = log.rotation.step == "refused"
    minutes = (facts.now - log.rotation.since) / 60e9
    head = "the CA cannot go on" if refused else f"a rotation has waited for {minutes:.0f} minutes"
    return Judgement((Fault("", f"{head}: {_waits(log)}"),))


def _is_stuck(log: LogFacts, facts: HealthFacts) -> bool:
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
