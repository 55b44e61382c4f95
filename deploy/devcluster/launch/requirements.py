"""Checks the kernel features that the mesh needs, by using each of them once in a forked child.

Versions and configuration do not suffice: security modules, container runtimes and sysctls also decide. The checks run
in the order in which the mesh uses the features.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable

from deploy.devcluster.node import syscalls
from shared.kubernetes.reserved_ports import OUTBOUND_PORT

OURS = (
    syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
)  # fmt: skip
"""The namespaces of the mesh, besides the user namespace that allows them."""


def missing() -> tuple[str, str] | None:
    """Returns code and sentence of the first missing feature, or None. Forks: the process must be single-threaded."""
    # A signal ends the launcher only after the child has ended, so that no process is left behind.
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    try:
        text = _answer_of_child()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    if not text:
        return "up/kernel", "trying the kernel's namespaces ended without an answer; see the log in the state directory"
    lack = json.loads(text)
    return None if lack is None else (lack[0], lack[1])


def _answer_of_child() -> str:
    """Try all features in a child. Returns the result as JSON; empty if the child failed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            syscalls.die_with_parent()  # the launcher may be killed meanwhile
            lack = _try_all()
            os.write(write, json.dumps(lack).encode())
        except BaseException:  # noqa: BLE001 - nothing may return into the caller's code
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        text = answer.read().decode()
    os.waitpid(child, 0)
    return text


def _try_all() -> tuple[str, str] | None:
    if sys.platform != "linux":
        return "up/platform", "the embedded mesh needs Linux: its pods are Linux namespaces"
    user, group = os.getuid(), os.getgid()
    steps: list[tuple[str, str, Callable[[], object]]] = [
        ("up/no-user-namespaces", "this kernel or container lets you make no user namespace", _user_namespace),
        (
            "up/no-user-map",
            "a user namespace can be made, but your user cannot be mapped into it",
            lambda: syscalls.map_only_user(user, group),
        ),
        (
            "up/no-namespaces",
            "a user namespace can be made, but no process, network and mount namespaces in it (a security module?)",
            lambda: syscalls.unshare(OURS),
        ),
        ("up/no-veth", "the kernel makes no veth pairs (is the module `veth` there?)", _veth),
        (
            "up/no-nftables",
            "the kernel takes no nf_tables rules (are `nf_tables`, `nft_nat`, `nft_redir` and `nft_numgen` there?)",
            _netfilter,
        ),
        # Last, because the mount hides the directory, which may contain this program.
        ("up/no-mounts", "file systems cannot be mounted in a namespace of yours", _mounts),
    ]
    for code, sentence, step in steps:
        try:
            step()
        except OSError as error:
            return code, f"{sentence}: {error.strerror or error}{_advice(code, error.errno)}"
    return None


def _user_namespace() -> None:
    syscalls.unshare(syscalls.CLONE_NEWUSER)


def _mounts() -> None:
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("meshlog", tempfile.gettempdir(), "tmpfs")


def _veth() -> None:
    from deploy.devcluster.node import veth
    from shared.netfilter.netlink import ROUTE, NetlinkSocket

    here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.unshare(syscalls.CLONE_NEWNET)
    with NetlinkSocket(ROUTE) as pod:
        there = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        syscalls.enter(here, 0)
        with NetlinkSocket(ROUTE) as node:
            veth.connect_pod(node, pod, there, "try", "10.244.0.2")


def _netfilter() -> None:
    import ipaddress

    from deploy.devcluster.node import service_routes
    from deploy.devcluster.runtime import ServiceRoute
    from shared.netfilter import tables, transaction

    table, made = service_routes.set_up("10.244.0.1", ["10.244.0.1"], [ipaddress.IPv4Network("10.96.0.0/16")])
    backends = (("10.244.0.2", 80), ("10.244.0.3", 80))
    route = ServiceRoute(cluster_ip="10.96.0.2", port=80, protocol="TCP", backends=backends)
    transaction.commit([*made, *(message for batch in service_routes.change(table, [], [route]) for message in batch)])
    hook = tables.BaseHook("nat", "output", -100)
    chain = tables.Chain("try", ((tables.transport(tables.TCP), tables.redirect(OUTBOUND_PORT)),), hook)
    transaction.commit(transaction.replace_table(tables.Table("meshlog-try", (chain,))))


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
