"""Every verb of `meshlog`, with the sentence that `meshlog --help` shows for it. Imports nothing heavy."""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """A verb's module, and its purpose in a sentence."""

    module: str
    group: str
    summary: str
    unbounded: str = ""
    """Why it has no `--timeout`; empty if it has one, which bounds all its requests to peers."""


VERBS: dict[str, Verb] = {
    "demo": Verb(
        "cli.verbs.embedded.demo",
        "Try it",
        "run a bookstore on a real mesh and check its promises, about a minute",
        "starts a mesh of its own, each step of which has a bound",
    ),
    "up": Verb(
        "cli.verbs.embedded.up",
        "Try it",
        "start the embedded mesh on this machine and keep it running",
        "each part of the control plane may take a minute",
    ),
    "down": Verb(
        "cli.verbs.embedded.down",
        "Try it",
        "stop it; nothing is left behind",
        "ends processes of this machine, and asks no peer",
    ),
    "apply": Verb("cli.verbs.embedded.apply", "Use it", "apply YAML to the embedded mesh (kubectl works as well)"),
    "exec": Verb(
        "cli.verbs.embedded.exec",
        "Use it",
        "run a command inside a pod of the embedded mesh",
        "runs the caller's command",
    ),
    "logs": Verb("cli.verbs.embedded.logs", "Use it", "print what a pod of the embedded mesh wrote"),
    "compile": Verb(
        "cli.verbs.policy.compile",
        "Use it",
        "what proxies would be told, from manifests, without a cluster",
        "reads files",
    ),
    "check": Verb(
        "cli.verbs.policy.check",
        "Use it",
        "may this call pass, by which rule, what would the caller see",
        "reads files; the log of a mesh here is asked for a second",
    ),
    "status": Verb(
        "cli.verbs.state.status", "See it", "one screen: versions, proxies, services, certificates, what is left out"
    ),
    "proxies": Verb("cli.verbs.state.proxies", "See it", "every proxy: in sync, behind, refusing or gone"),
    "rollout": Verb(
        "cli.verbs.state.rollout", "See it", "has a version arrived: X of Y proxies, laggards and refusals"
    ),
    "log": Verb("cli.verbs.history.log", "Ask the log", "what happened, when, by whom"),
    "show": Verb(
        "cli.verbs.history.show", "Ask the log", "a version: what it changed, its objects, what each proxy holds"
    ),
    "diff": Verb("cli.verbs.history.diff", "Ask the log", "what differs between two versions or times"),
    "why": Verb("cli.verbs.policy.why", "Ask the log", "which objects a resource of a proxy comes from"),
    "why-not": Verb("cli.verbs.policy.why_not", "Ask the log", "why a call does not pass, and since which event"),
    "bisect": Verb("cli.verbs.history.bisect", "Ask the log", "the first version for which a command fails"),
    "plan": Verb("cli.verbs.policy.plan", "Ask the log", "what applying would do: configuration, calls, connections"),
    "rollback": Verb(
        "cli.verbs.history.rollback", "Ask the log", "put the policy of a past version in force again, in seconds"
    ),
    "unpin": Verb("cli.verbs.history.unpin", "Ask the log", "end a rollback"),
    "export": Verb(
        "cli.verbs.history.export", "Ask the log", "write the log, or a part of it, into one checksummed file"
    ),
    "replay": Verb(
        "cli.verbs.history.replay",
        "Ask the log",
        "rebuild every version of an exported log and compare each hash",
        "reads a file",
    ),
    "certificate": Verb(
        "cli.verbs.cluster.certificate", "Operate it", "list, show and audit certificates; rotate the root"
    ),
    "install": Verb(
        "cli.verbs.cluster.install", "Operate it", "a control plane for a Kubernetes cluster, as YAML or applied"
    ),
    "upgrade": Verb("cli.verbs.cluster.upgrade", "Operate it", "bring a cluster's control plane to this build"),
    "uninstall": Verb("cli.verbs.cluster.uninstall", "Operate it", "remove a mesh from a cluster"),
    "namespace": Verb(
        "cli.verbs.cluster.namespace", "Operate it", "which namespaces are members: add, remove, ignore, list"
    ),
    "verify": Verb("cli.verbs.cluster.verify", "Operate it", "is the control plane well; can this pod call that one"),
    "migrate": Verb(
        "cli.verbs.cluster.migrate", "Operate it", "what a move from Open Service Mesh means, object by object"
    ),
    "mesh": Verb("cli.verbs.cluster.mesh", "Operate it", "list the meshes of a cluster"),
    "run": Verb(
        "cli.verbs.process.run",
        "Operate it",
        "run one service: ingestor, compiler, xds-edge, ca or injector",
        "a service",
    ),
    "grpc-bootstrap": Verb(
        "cli.verbs.process.grpc_bootstrap",
        "Operate it",
        "print the xDS bootstrap of a gRPC workload without a sidecar",
        "prints",
    ),
    "sidecar-init": Verb(
        "cli.verbs.process.sidecar_init",
        "Operate it",
        "redirect a pod's traffic to its sidecar (init container)",
        "changes a pod's own network, and asks no peer",
    ),
    "version": Verb("cli.verbs.process.version", "Operate it", "print the version of this build", "prints"),
}


def overview() -> str:
    """What `meshlog --help` prints."""
    lines = [
        "meshlog: a service mesh whose source of truth is a log",
        "",
        "Usage: meshlog VERB [ARGUMENTS]      meshlog VERB --help teaches one verb",
    ]
    for group in dict.fromkeys(verb.group for verb in VERBS.values()):
        lines += ["", f"{group}:"]
        lines += [f"  {name:<14} {verb.summary}" for name, verb in VERBS.items() if verb.group == group]
    lines += ["", "New here? Run `meshlog demo`, then read docs/start.md."]
    return "\n".join(lines)
