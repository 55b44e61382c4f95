"""`meshlog exec`: runs a command inside a pod."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence

from cli.terminal import output
from shared.errors import BadInputError

_STARTS_WITHIN = 30.0
"""Timeout in seconds for the start of a pod that was just created."""
_LOOK = 0.2


def pod_name(text: str) -> tuple[str, str]:
    """Return the two parts of `NS/POD`. Raises `BadInputError` for anything else."""
    namespace, slash, pod = text.partition("/")
    if not slash or not namespace or not pod or "/" in pod:
        raise BadInputError("pod/name", "a pod is named NAMESPACE/POD", about=repr(text))
    return namespace, pod


def main(argv: Sequence[str]) -> int:
    """Run the command on this terminal. Returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="meshlog exec",
        usage="meshlog exec [-h] [-c CONTAINER] NS/POD -- COMMAND [ARGUMENT ...]",
        description="Run a command inside a pod of the embedded mesh: its network, its files, this terminal.",
        epilog="example:\n  meshlog exec shop/web-6c9 -- python -P -m deploy.demo.apps.load URL --requests 10",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", "--container", default="", help="which container (default: the first)")
    parser.add_argument("pod", metavar="NS/POD", help="a pod; the name of its workload will do")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    options = parser.parse_args(argv)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("which command? meshlog exec NS/POD -- COMMAND")

    from cli.embedded import lifecycle
    from deploy.devcluster.launch.control import exec_in_pod

    namespace, pod = pod_name(options.pod)
    until, told = time.monotonic() + _STARTS_WITHIN, False
    while True:
        try:
            return exec_in_pod(lifecycle.state_directory(), namespace, pod, options.container, command)
        except BadInputError as error:
            if error.code not in {"devcluster/no-pod", "devcluster/not-running"}:
                raise
            found, starts = asyncio.run(_of_workload(namespace, pod))
            if not found or (found == pod and not starts) or time.monotonic() > until:
                raise
        if found != pod and not starts:
            output.note(f"in {namespace}/{found}")
            pod = found
        elif not told:
            output.note(f"waiting for {namespace}/{found} to start")
            told = True
        time.sleep(_LOOK)


async def _of_workload(namespace: str, name: str) -> tuple[str, bool]:
    """Return a pod of that name, or of the workload of that name, and whether it is starting; empty if there is none.

    Prefers a running pod to a starting one.
    """
    from cli.embedded import lifecycle
    from cli.kubernetes import kubeconfig
    from cli.kubernetes.api_client import connect

    async with connect(kubeconfig.read(lifecycle.state_directory() / lifecycle.KUBECONFIG)) as api:
        listing = await api.get(f"/api/v1/namespaces/{namespace}/pods")
    phases = {one["metadata"]["name"]: one.get("status", {}).get("phase", "Pending") for one in listing["items"]}
    named = [name] if name in phases else sorted(one for one in phases if one.startswith(f"{name}-"))
    alive = [one for one in named if phases[one] in {"Pending", "Running"}]
    chosen = min(alive, key=lambda one: (phases[one] != "Running", one), default="")
    return chosen, bool(chosen) and phases[chosen] == "Pending"
