"""`meshlog exec`: a command inside a pod."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from shared.errors import BadInputError


def pod_name(text: str) -> tuple[str, str]:
    """`NS/POD` as its two parts; raises `BadInputError` for anything else."""
    namespace, slash, pod = text.partition("/")
    if not slash or not namespace or not pod or "/" in pod:
        raise BadInputError("pod/name", "a pod is named NAMESPACE/POD", about=repr(text))
    return namespace, pod


def main(argv: Sequence[str]) -> int:
    """Run the command on this terminal; its exit code is ours."""
    parser = argparse.ArgumentParser(
        prog="meshlog exec",
        usage="meshlog exec [-h] [-c CONTAINER] NS/POD -- COMMAND [ARGUMENT ...]",
        description="Run a command inside a pod of the embedded mesh: its network, its files, this terminal.",
        epilog="example:\n  meshlog exec shop/web-6c9 -- python -P -m deploy.demo.apps.load URL --requests 10",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", "--container", default="", help="which container (default: the first)")
    parser.add_argument("pod", metavar="NS/POD")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    options = parser.parse_args(argv)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("which command? meshlog exec NS/POD -- COMMAND")

    from cli import embedded
    from deploy.devcluster.launch.control import exec_in_pod

    namespace, pod = pod_name(options.pod)
    return exec_in_pod(embedded.state_directory(), namespace, pod, options.container, command)
