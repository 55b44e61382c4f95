"""`meshlog logs`: prints the output of a pod."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cli.terminal import output
from cli.terminal.deadline import Deadline, add_timeout, run


def main(argv: Sequence[str]) -> int:
    """Print the log of one container, or of the pods of a Deployment by its name. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="meshlog logs",
        description="Print what a pod of the embedded mesh wrote.",
        epilog="examples:\n  meshlog logs meshlog-system/meshlog-compiler     every pod of that name or Deployment\n"
        "  meshlog logs bookbuyer/bookbuyer -c envoy        its sidecar",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pod", metavar="NS/NAME", help="a pod, or the beginning of the name of several")
    parser.add_argument("-c", "--container", default="", help="which container (default: the first)")
    parser.add_argument("--tail", type=int, default=0, help="only this many lines from the end")
    parser.add_argument(
        "--raw",
        action="store_true",
        help="on a terminal, too, exactly what was written (default: visible, line by line)",
    )
    add_timeout(parser, 60.0)
    options = parser.parse_args(argv)

    from cli.embedded import lifecycle
    from cli.kubernetes import kubeconfig
    from cli.kubernetes.api_client import ApiRefusedError, connect
    from cli.verbs.embedded.exec import pod_name
    from shared.errors import BadInputError

    namespace, name = pod_name(options.pod)
    lifecycle.running()

    async def work(_: Deadline) -> int:
        async with connect(kubeconfig.read(lifecycle.state_directory() / lifecycle.KUBECONFIG)) as api:
            listing = await api.get(f"/api/v1/namespaces/{namespace}/pods")
            names = [pod["metadata"]["name"] for pod in listing["items"]]
            chosen = [one for one in names if one == name] or [one for one in names if one.startswith(name)]
            if not chosen:
                raise BadInputError(
                    "logs/pod", f"no pod is called so; there are {', '.join(names) or 'none'}", about=name
                )
            params = {"container": options.container} if options.container else {}
            if options.tail:
                params["tailLines"] = str(options.tail)
            for one in chosen:
                if len(chosen) > 1:
                    output.note(f"== {one}")
                status, text = await api.request("GET", f"/api/v1/namespaces/{namespace}/pods/{one}/log", params=params)
                if status != 200:
                    raise ApiRefusedError("logs/refused", str(text.get("message", text)), about=one)
                output.log_of_a_container("" if text is None else str(text), raw=options.raw)
        return 0

    return run(work, options.timeout, of="the Kubernetes API")
