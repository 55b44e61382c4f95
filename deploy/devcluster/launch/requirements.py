"""What the kernel must grant, tried in a child that is thrown away: one sentence for whatever is missing.

Reading version numbers or configuration would be a guess: security modules, container runtimes and sysctls all have
their say. So each thing is done once, in the order in which the mesh will do it.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable

from deploy.devcluster.node import kernel
from shared.reserved import OUTBOUND_PORT

OURS = (
    kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
)  # fmt: skip
"""The namespaces of the mesh, besides the user namespace that allows them."""


def missing() -> tuple[str, str] | None:
    """Code and sentence of the first thing that this machine does not grant; none if all is there.

    Must be called while single-threaded: it forks.
    """
    told, teller = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            lack = _try_all()
            os.write(teller, json.dumps(lack).encode())
        except BaseException:  # noqa: BLE001 - nothing may return into the caller's code
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(teller)
    with os.fdopen(told, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    if not text:
        return "up/kernel", "trying the kernel's namespaces ended without an answer; see the log in the state directory"
    lack = json.loads(text)
    return None if lack is None else (lack[0], lack[1])


def _try_all() -> tuple[str, str] | None:
    if sys.platform != "linux":
        return "up/platform", "the embedded mesh needs Linux: its pods are Linux namespaces"
    user, group = os.getuid(), os.getgid()
    steps: list[tuple[str, str, Callable[[], object]]] = [
        ("up/no-user-namespaces", "this kernel or container lets you make no user namespace", _user_namespace),
        (
            "up/no-user-map",
            "a user namespace can be made, but your user cannot be mapped into it",
            lambda: kernel.map_only_user(user, group),
        ),
        (
            "up/no-namespaces",
            "a user namespace can be made, but no process, network and mount namespaces in it (a security module?)",
            lambda: kernel.unshare(OURS),
        ),
        ("up/no-veth", "the kernel makes no veth pairs (is the module `veth` there?)", _veth),
        (
            "up/no-nftables",
            "the kernel takes no nf_tables rules (are `nf_tables`, `nft_nat`, `nft_redir` and `nft_numgen` there?)",
            _netfilter,
        ),
        # Last, because what lies below the directory (perhaps our own code) is hidden then.
        ("up/no-mounts", "file systems cannot be mounted in a namespace of yours", _mounts),
    ]
    for code, sentence, step in steps:
        try:
            step()
        except OSError as error:
            return code, f"{sentence}: {error.strerror or error}{_advice(code, error.errno)}"
    return None


def _user_namespace() -> None:
    kernel.unshare(kernel.CLONE_NEWUSER)


def _mounts() -> None:
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("meshlog", tempfile.gettempdir(), "tmpfs")


def _veth() -> None:
    from deploy.devcluster.node import links
    from shared.netlink import ROUTE, NetlinkSocket

    here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    kernel.unshare(kernel.CLONE_NEWNET)
    with NetlinkSocket(ROUTE) as pod:
        there = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        kernel.enter(here, 0)
        with NetlinkSocket(ROUTE) as node:
            links.connect_pod(node, pod, there, "try", "10.244.0.2")


def _netfilter() -> None:
    import ipaddress

    from deploy.devcluster.node import services
    from deploy.devcluster.runtime import ServiceRoute
    from shared import netfilter, ruleset

    table, made = services.set_up("10.244.0.1", ["10.244.0.1"], [ipaddress.IPv4Network("10.96.0.0/16")])
    backends = (("10.244.0.2", 80), ("10.244.0.3", 80))
    route = ServiceRoute(cluster_ip="10.96.0.2", port=80, protocol="TCP", backends=backends)
    ruleset.commit([*made, *(message for batch in services.change(table, [], [route]) for message in batch)])
    hook = netfilter.BaseHook("nat", "output", -100)
    chain = netfilter.Chain("try", ((netfilter.transport(netfilter.TCP), netfilter.redirect(OUTBOUND_PORT)),), hook)
    ruleset.commit(ruleset.replace_table(netfilter.Table("meshlog-try", (chain,))))


def _advice(code: str, number: int | None) -> str:
    if code == "up/no-user-namespaces" and number == errno.ENOSPC:
        return "; raise the sysctl user.max_user_namespaces"
    if code in {"up/no-user-namespaces", "up/no-user-map", "up/no-namespaces"} and number in (
        errno.EPERM,
        errno.EACCES,
    ):
        return (
            "; allow it with the sysctl kernel.unprivileged_userns_clone=1 or "
            "kernel.apparmor_restrict_unprivileged_userns=0, or start the container with less confinement"
        )
    return ""
