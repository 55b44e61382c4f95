"""The table of checks, in the order in which to repair.

Each row: the healthy state, the fact that it reads, the severity of a finding, the remedy, and the metric, reason of
`/readyz` and condition of objects by which the services themselves report it. docs/health.md is generated from it, and
a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterable

from cli.health import judges
from cli.health.facts import HealthFacts
from cli.health.finding import CheckResult, HealthCheck, HealthFinding, MetricSignal
from cli.health.judges import STUCK


def judged(facts: HealthFacts, checks: Iterable[HealthCheck] | None = None) -> list[CheckResult]:
    """The results of every check of the table on these facts."""
    return [_judge(check, facts) for check in (CHECKS if checks is None else checks)]


def findings(results: Iterable[CheckResult]) -> list[HealthFinding]:
    """The findings, errors first."""
    found = [finding for result in results for finding in result.findings]
    return sorted(found, key=lambda finding: finding.severity != "error")


def unknown(results: Iterable[CheckResult]) -> list[CheckResult]:
    """Checks that could not run."""
    return [result for result in results if result.state == "unknown"]


def _judge(check: HealthCheck, facts: HealthFacts) -> CheckResult:
    missing = _missing(check, facts)
    if missing:
        return CheckResult(check.name, check.what, "unknown", missing, ())
    verdict = check.judge(facts)
    found = tuple(
        HealthFinding(check.name, check.severity, one.about, one.sentence, check.remedy) for one in verdict.found
    )
    return CheckResult(check.name, check.what, "found" if found else "well", verdict.seen, found)


def _missing(check: HealthCheck, facts: HealthFacts) -> str:
    """Why a check cannot run; empty if it can."""
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


_PROXIES = (("ingestor", "proxies"),)
_LOGS = "see `meshlog logs meshlog-system/NAME`"

CHECKS: tuple[HealthCheck, ...] = (
    HealthCheck(
        name="api",
        what="the Kubernetes API answers",
        reads="cluster",
        severity="error",
        judge=judges.api,
        remedy="proxies keep what they have; changes wait until it answers again",
        readyz=(("ingestor", "cluster"),),
        signals=(MetricSignal(family="meshlog_ready", labels=(("service", "ingestor"),), total="sum", below=1),),
    ),
    HealthCheck(
        name="log",
        what="the log answers",
        reads="log",
        severity="error",
        judge=judges.readable,
        remedy="proxies keep what they have; changes wait: look at the servers of NATS",
        readyz=(("ingestor", "lease"), ("compiler", "lease")),
        signals=(MetricSignal(family="meshlog_lease_vacant", above=0),),
    ),
    HealthCheck(
        name="replicas",
        what="every service has its replicas",
        reads="cluster",
        severity="error",
        judge=judges.of_cluster(judges.replicas),
        remedy=_LOGS,
        signals=tuple(
            MetricSignal(family="meshlog_ready", labels=(("service", name),), total="sum", below=1)
            for name in ("ingestor", "compiler", "ca", "xds-edge", "injector")
        ),
    ),
    HealthCheck(
        name="leader",
        what="an ingestor and a compiler lead",
        reads="log",
        severity="error",
        judge=judges.of_log(judges.leader),
        remedy="`kubectl -n meshlog-system get pods`; the `/readyz` of each shows why it stands by",
        readyz=(("ingestor", "lease"), ("compiler", "lease")),
        signals=(
            MetricSignal(family="meshlog_ingestor_leads", total="sum", below=1),
            MetricSignal(family="meshlog_compiler_leads", total="sum", below=1),
        ),
    ),
    HealthCheck(
        name="working",
        what="the replicas that lead can work",
        reads="log",
        severity="error",
        judge=judges.of_log(judges.working),
        remedy="changes wait, none is lost: mend what the sentence names (docs/reliability.md)",
        readyz=(("ingestor", "cluster"), ("compiler", "events"), ("compiler", "commits")),
        signals=(
            MetricSignal(family="meshlog_leader_trouble", above=0),
            MetricSignal(family="meshlog_ingestor_log_full", above=0),
        ),
    ),
    HealthCheck(
        name="published",
        what="every event is published",
        reads="log",
        severity="error",
        judge=judges.of_log(judges.published),
        remedy="see `meshlog logs meshlog-system/meshlog-compiler`",
        readyz=(("ingestor", "published"), ("compiler", "events"), ("compiler", "commits")),
        signals=(MetricSignal(family="meshlog_mesh_unpublished_seconds", above=2),),
    ),
    HealthCheck(
        name="signing",
        what="signing requests are answered",
        reads="log",
        severity="error",
        judge=judges.of_log(judges.signed),
        remedy="`meshlog certificate audit`; `meshlog logs meshlog-system/meshlog-ca`",
        readyz=(("xds-edge", "signing"), ("ca", "log")),
        signals=(
            MetricSignal(family="meshlog_edge_unanswered_requests", above=0),
            MetricSignal(family="meshlog_ca_log_unwritable", above=0),
        ),
    ),
    HealthCheck(
        name="webhook",
        what="the injector's webhook",
        reads="cluster",
        severity="error",
        judge=judges.of_cluster(judges.webhook),
        remedy="`meshlog upgrade` brings it back",
        readyz=(("ca", "webhook"),),
        signals=(MetricSignal(family="meshlog_ca_webhook_missing", above=0),),
    ),
    HealthCheck(
        name="trust-bundle",
        what="the trust bundle is published",
        reads="cluster",
        severity="error",
        judge=judges.of_cluster(judges.bundle),
        remedy="see `meshlog logs meshlog-system/meshlog-ca`",
        readyz=(("ca", "trust-bundle"),),
        signals=(MetricSignal(family="meshlog_ca_bundles_unwritten", above=0),),
    ),
    HealthCheck(
        name="mesh-config",
        what="the mesh has its MeshConfig",
        reads="cluster",
        severity="warning",
        judge=judges.of_cluster(judges.mesh_config),
        remedy="`kubectl -n meshlog-system edit meshconfig osm-mesh-config` (docs/mesh-config.md)",
        readyz=(("compiler", "mesh-config"),),
        signals=(MetricSignal(family="meshlog_compiler_mesh_config_missing", above=0),),
    ),
    HealthCheck(
        name="refusing",
        what="no proxy refuses its configuration",
        reads="log",
        severity="error",
        judge=judges.proxies("refusing", "it goes on with what it held before"),
        remedy="`meshlog why NS/POD` names the objects it comes from; `meshlog rollback HEAD~1` takes them back",
        readyz=_PROXIES,
        signals=(MetricSignal(family="meshlog_mesh_proxies", labels=(("state", "refusing"),), above=0),),
        condition="Programmed=False, reason Refused",
    ),
    HealthCheck(
        name="behind",
        what="no proxy is behind",
        reads="log",
        severity="warning",
        judge=judges.proxies("behind", "until it has acknowledged, it goes on with what it holds"),
        remedy="`meshlog rollout --last`",
        readyz=_PROXIES,
        signals=(MetricSignal(family="meshlog_mesh_proxies", labels=(("state", "behind"),), above=0),),
        condition="Programmed=False, reason Progressing",
    ),
    HealthCheck(
        name="gone",
        what="no proxy is gone",
        reads="log",
        severity="error",
        judge=judges.proxies("gone", "no edge can reach it: it goes on with what it held, if it still runs"),
        remedy="does its pod run, and does an edge? `meshlog logs NS/POD -c envoy`",
        readyz=_PROXIES,
        signals=(MetricSignal(family="meshlog_mesh_proxies", labels=(("state", "gone"),), above=0),),
    ),
    HealthCheck(
        name="never-connected",
        what="every proxy has connected",
        reads="log",
        severity="warning",
        judge=judges.proxies("never connected", "it has received nothing, so calls by it or to it fail"),
        remedy="does its pod run? `meshlog logs NS/POD -c envoy`",
        readyz=_PROXIES,
        signals=(MetricSignal(family="meshlog_mesh_proxies", labels=(("state", "never connected"),), above=0),),
    ),
    HealthCheck(
        name="certificates",
        what="the certificates of connected proxies are valid",
        reads="log",
        severity="error",
        judge=judges.of_log(judges.ended),
        remedy="`meshlog certificate audit` shows why; recreate a pod whose ServiceAccount was deleted and made anew",
        readyz=(("ingestor", "certificates"),),
        signals=(MetricSignal(family="meshlog_mesh_ended_certificates", above=0),),
    ),
    HealthCheck(
        name="left-out",
        what="no object is left out",
        reads="log",
        severity="warning",
        judge=judges.of_log(judges.left_out),
        remedy="mend the object for the reason above, which its status in Kubernetes has as well",
        readyz=(("compiler", "left out"),),
        signals=(MetricSignal(family="meshlog_compiler_quarantined", above=0),),
        condition="Accepted=False",
    ),
    HealthCheck(
        name="pin",
        what="the mesh is not pinned",
        reads="log",
        severity="warning",
        judge=judges.of_log(judges.pin),
        remedy="`meshlog unpin` puts the newest policy in force",
        readyz=(("compiler", "pin"),),
        signals=(MetricSignal(family="meshlog_compiler_pinned", above=0),),
        condition="Pinned=True",
    ),
    HealthCheck(
        name="rotation",
        what="no rotation of the root is under way",
        reads="log",
        severity="warning",
        judge=judges.of_log(judges.rotation),
        remedy="`meshlog certificate rotate` goes on with it, `rotate --back` takes it back",
        readyz=(("ca", "rotation"),),
        signals=(MetricSignal(family="meshlog_ca_trusted_roots", above=1),),
        condition="of the MeshRootCertificate",
    ),
    HealthCheck(
        name="rotation-stuck",
        what="no rotation of the root is stuck",
        reads="log",
        severity="error",
        judge=judges.of_log(judges.stuck),
        remedy="bring back or delete the pods that it waits for, or `meshlog certificate rotate --back`",
        readyz=(("ca", "rotation"),),
        signals=(
            MetricSignal(family="meshlog_ca_rotation_waits_seconds", above=STUCK),
            MetricSignal(family="meshlog_ca_broken_roots", above=0),
        ),
        condition="of the MeshRootCertificate",
    ),
    HealthCheck(
        name="sidecars",
        what="pods that want a sidecar have one",
        reads="cluster",
        severity="warning",
        judge=judges.of_cluster(judges.sidecars),
        remedy="recreate them",
    ),
    HealthCheck(
        name="probe-ports",
        what="probe ports let nothing but probes through",
        reads="cluster",
        severity="error",
        judge=judges.of_cluster(judges.probe_ports),
        remedy="restart these pods",
    ),
)
