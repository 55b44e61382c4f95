"""`meshlog check`: decides whether a call passes, by which rule, and what the caller receives if it is denied."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Sequence

from cli.terminal import output
from cli.verbs.policy.compile import add_sources

_AT_ONCE = 1.0
"""Timeout in seconds for the log of the local mesh."""
_EPILOG = """\
FROM and TO are NS/POD (the name of its workload will do), sa:NS/ACCOUNT or svc:NS/SERVICE. The answer is read from the
configuration that the sidecars of both ends would hold.

examples:
  meshlog check -f manifests/ shop/web svc:shop/cart --path /items
  meshlog check -f manifests/ sa:shop/web svc:shop/db --port 5432
  meshlog check -f manifests/ shop/web svc:shop/cart --method POST --path /items --header client=web
"""


def main(argv: Sequence[str]) -> int:
    """Decide the call. Returns 0 allowed, 1 denied, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="meshlog check",
        description="Say whether a call passes, by which rule, and what the caller sees if not.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_sources(parser)
    parser.add_argument("caller", metavar="FROM")
    parser.add_argument("called", metavar="TO")
    parser.add_argument("--port", type=int, help="of the Service, if it has several")
    parser.add_argument("--method", default="GET")
    parser.add_argument("--path", default="/")
    parser.add_argument("--header", action="append", default=[], metavar="K=V", help="can be repeated")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    options = parser.parse_args(argv)

    from cli.calls.matching import HttpRequest, target_of
    from cli.calls.near_misses import policy_of
    from cli.calls.question import ask, explained
    from cli.offline.compilation import compile_files

    request = HttpRequest(
        method=options.method.upper(),
        path=target_of(options.method.upper(), options.path),
        headers=tuple(_header(text) for text in options.header),
    )
    compiled = compile_files(options.filename, mesh_name=options.mesh_name, trust_domain=options.trust_domain)
    answers = explained(
        ask(compiled.snapshot, compiled.directory, options.caller, options.called, request, port=options.port),
        request,
        lambda namespaces: policy_of(compiled.events, compiled.settings, namespaces),
    )
    if options.output == "json":
        found = [
            {
                "from": one.caller,
                "to": one.called,
                "asked": one.asked,
                "allowed": one.allowed,
                "sees": one.sees,
                "hints": one.hints,
                "ways": [
                    {"cluster": way.cluster, "weight": way.weight, "pod": way.pod, "sees": way.sees, "by": way.rule}
                    for way in one.ways
                ],
            }
            for one in answers
        ]
        output.json(found, indent=2)
    else:
        output.lines(line for one in answers for line in one.lines)
    sentences = [f"left out: {one.key}: {one.sentence} [{one.code}]" for one in compiled.snapshot.quarantine]
    for sentence in [*sentences, *(f"warning: {doubt}" for doubt in compiled.doubts)]:
        output.note(sentence)
    if pin := asyncio.run(_pin_here()):
        output.note(f"the mesh that runs here is {pin}; applied to it, policy would be recorded and not in force")
    return 0 if all(one.allowed for one in answers) else 1


async def _pin_here() -> str:
    """Return the pin of the local mesh, empty if none answers in time: checked files do not show a pin."""
    from cli.history.log_source import LOG_VARIABLE, opened
    from cli.state.mesh_status import pinned
    from shared.errors import MeshlogError

    try:
        async with asyncio.timeout(_AT_ONCE), opened(os.environ.get(LOG_VARIABLE, ""), within=_AT_ONCE) as source:
            return await pinned(source) if source.archive is None else ""
    except (MeshlogError, TimeoutError):
        return ""


def _header(text: str) -> tuple[str, str]:
    from shared.errors import BadInputError

    name, separator, value = text.partition("=")
    if not separator or not name:
        raise BadInputError("check/header", f"{text!r} is no header: write NAME=VALUE")
    return name, value
