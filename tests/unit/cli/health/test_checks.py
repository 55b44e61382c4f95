"""Each check finds what it is there for, names it, and finds nothing where all is well; "all is well" is earned."""

from __future__ import annotations

import json

import msgspec
import pytest

from cli.health import checks, findings_output
from cli.health.checks import CHECKS, STUCK, findings, judged
from cli.health.facts import HealthFacts, LeaseState
from cli.state.service_lag import ServiceLag
from tests.unit.cli.health.facts import LOG, NOW, WELL, cluster, log, proxy, rotation, standing, workload

VACANT = LeaseState("compiler", "compiler-0", vacant=True)
LEADS = LeaseState("ingestor", "ingestor-0", vacant=False)

CASES: dict[str, tuple[HealthFacts, str, str]] = {
    # what is broken: facts, the one check that finds it, a part of its sentence
    "the API is away": (
        msgspec.structs.replace(WELL, cluster=None, cluster_away="does not answer (refused)"),
        "api",
        "does not answer",
    ),
    "the log is away": (
        msgspec.structs.replace(WELL, log=None, log_away="cannot be reached"),
        "log",
        "cannot be reached",
    ),
    "no compiler is installed": (
        workload("meshlog-compiler", installed=False),
        "replicas",
        "meshlog-compiler is not installed",
    ),
    "0 of 0 edges": (workload("meshlog-xds-edge", wanted=0, ready=0), "replicas", "meshlog-xds-edge: 0 of 0 ready"),
    "no CA": (workload("meshlog-ca", wanted=0, ready=0), "replicas", "meshlog-ca: 0 of 0 ready"),
    "one edge of two": (
        workload("meshlog-xds-edge", wanted=2, trouble="e-1 waits"),
        "replicas",
        "1 of 2 ready: e-1 waits",
    ),
    "no compiler leads": (log(leases=[LEADS, VACANT]), "leader", "no compiler leads, compiler-0 was the last"),
    "no ingestor ever led": (
        log(leases=[LeaseState("ingestor", "", vacant=True)]),
        "leader",
        "no ingestor leads: changes in Kubernetes",
    ),
    "the leader cannot write": (
        log(leases=[msgspec.structs.replace(LEADS, trouble="cluster: the log is full")]),
        "working",
        "the leading ingestor ingestor-0 cannot go on: cluster: the log is full",
    ),
    "events wait": (
        log(lags=[ServiceLag("compiler", 3, "3 events are not published")], unpublished=3),
        "published",
        "3 events are not published",
    ),
    "requests wait": (log(unsigned=2), "signing", "up to 2 signing requests wait"),
    "no webhook": (cluster(webhook="is not there"), "webhook", "is not there"),
    "no bundle": (cluster(roots=0), "trust-bundle", "no trust bundle"),
    "no MeshConfig": (cluster(mesh_config="x is not there"), "mesh-config", "MeshConfig x is not there"),
    "refusing": (proxy("refusing", "Cluster of 7: bad"), "refusing", "proxy shop/db is refusing (Cluster of 7: bad)"),
    "behind": (proxy("behind"), "behind", "proxy shop/db is behind"),
    "gone": (proxy("gone"), "gone", "proxy shop/db is gone"),
    "never connected": (proxy("never connected"), "never-connected", "proxy shop/db is never connected"),
    "a certificate has ended": (
        proxy("in sync", certificate_until=NOW // 10**9 - 5),
        "certificates",
        "proxy shop/db has a certificate that ended at 2027-01-15T07:59:55Z: it gets no new one",
    ),
    "left out": (
        standing(quarantine=[("TrafficTarget shop/t", "smi/x", "no such rule")]),
        "left-out",
        "left out: TrafficTarget shop/t: no such rule [smi/x]",
    ),
    "pinned": (standing(pinned="pinned to version 3 at 9 by ann: 403s"), "pin", "the mesh is pinned to version 3"),
    "rotation": (rotation(), "rotation", "it waits for: shop/db: has not"),
    "rotation, nothing to wait for": (rotation(waiting=[], count=0), "rotation", "roots default, root-2 are trusted"),
    "stuck": (
        rotation(since=NOW - int((STUCK + 60) * 1e9)),
        "rotation-stuck",
        "has waited for 6 minutes: roots default, root-2",
    ),
    "refused": (rotation(step="refused", why="no root is active"), "rotation-stuck", "the CA cannot go on"),
    "bare": (cluster(bare=["shop/a", "shop/b"]), "sidecars", "shop/a, shop/b run without a sidecar"),
    "open": (cluster(opened=["shop/a"]), "probe-ports", "those of shop/a let any request"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_broken_is_found_by_the_check_that_is_there_for_it_and_by_no_other(case: str) -> None:
    facts, check, sentence = CASES[case]
    found = findings(judged(facts))
    assert {one.check for one in found} == {check}
    assert sentence in found[0].sentence
    assert found[0].remedy


def test_every_check_has_a_case_here() -> None:
    assert {check for _, check, _ in CASES.values()} == {check.name for check in CHECKS}
    assert len({check.name for check in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize(
    ("state", "until", "finds"),
    [
        ("in sync", 0, set[str]()),
        ("in sync", 60, set[str]()),
        ("in sync", -1, {"certificates"}),
        ("behind", -1, {"behind", "certificates"}),
        ("gone", -1, {"gone"}),
    ],
)
def test_only_of_proxies_that_are_connected_the_certificate_counts(state: str, until: int, finds: set[str]) -> None:
    """One that has none yet waits for its first, which is another check's business."""
    facts = proxy(state, certificate_until=NOW // 10**9 + until if until else 0)
    assert {one.check for one in findings(judged(facts))} == finds


def test_all_is_well_is_said_only_if_every_check_has_looked() -> None:
    assert findings_output.headline(judged(WELL)) == f"all is well: {len(CHECKS)} checks"
    assert findings_output.well(judged(WELL))
    for unseen in (HealthFacts(cluster=WELL.cluster), HealthFacts(log=LOG), log(leases=None)):
        said = findings_output.headline(judged(unseen))
        assert said.startswith("nothing wrong in what was looked at; not looked at: ")
        assert not findings_output.as_json(judged(unseen))["complete"]


def test_a_log_that_takes_no_writes_is_told_from_services_that_do_not_run() -> None:
    """No lease is renewed in both cases."""
    vacant = [LeaseState("ingestor", "a", vacant=True), VACANT]
    assert "takes no writes" in findings(judged(log(leases=vacant)))[-1].sentence
    gone = msgspec.structs.replace(log(leases=vacant), cluster=cluster(workloads=[]).cluster)
    assert not any("takes no writes" in one.sentence for one in findings(judged(gone)))


def test_what_the_log_cannot_say_kubernetes_still_says(capsys: pytest.CaptureFixture[str]) -> None:
    away = msgspec.structs.replace(
        workload("nats", ready=0), log=None, log_away="the log cannot be read now: no answer"
    )
    findings_output.tell(judged(away))
    told = capsys.readouterr().out
    assert "the log cannot be read now: no answer" in told
    assert "nats: 0 of 1 ready" in told


def test_errors_come_first_and_many_of_a_kind_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    many = [(f"TrafficTarget shop/t{number}", "smi/x", "no") for number in range(9)]
    facts = msgspec.structs.replace(
        standing(quarantine=many), cluster=workload("meshlog-ca", wanted=0, ready=0).cluster
    )
    findings_output.tell(judged(facts))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["error", "replicas"]
    assert [line for line in lines if line.split()[0] == "warning"] == lines[2:7]
    assert lines[7].strip() == "and 4 more"
    assert len(json.loads(json.dumps(findings_output.as_json(judged(facts))))["findings"]) == 10


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_signal_is_breached_by_the_value_that_it_names_and_by_no_other(check: checks.HealthCheck) -> None:
    for signal in check.signals:
        labels = dict(signal.labels)
        fine = signal.below if signal.below is not None else signal.above
        assert fine is not None
        bad = fine - 1 if signal.below is not None else fine + 1
        assert not signal.breached([(signal.family, labels, fine)])
        assert signal.breached([(signal.family, labels, bad)])
        assert signal.breached([]) == (signal.below is not None), "no process is a breach of what must be there"
        assert signal.family in signal.promql
