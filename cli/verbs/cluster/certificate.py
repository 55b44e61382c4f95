"""`meshlog certificate`: shows the mesh's roots and certificates, and rotates the root."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from cli.terminal import output
from cli.terminal.deadline import Deadline, add_timeout, run

_EPILOG = """\
examples:
  meshlog certificate list                          roots, and what each proxy holds
  meshlog certificate rotate                        to a new root of our own, without a failed request
  meshlog certificate rotate --provider vault --set host=vault.vault.svc --set role=meshlog
  meshlog certificate rotate --trust-domain example.org
  meshlog certificate rotate --back                 undo the one that is under way
  meshlog certificate show bookstore/bookstore-v1-0 a pod's newest certificate (or a serial's)
  meshlog certificate audit -n 20                   who got what on whose token, who was refused, and why
"""


def main(argv: Sequence[str]) -> int:
    """Run the subcommand. Returns 0; 2 for an invalid request; 130 if a rotation was interrupted (run it again)."""
    parser = argparse.ArgumentParser(
        prog="meshlog certificate",
        description="Show and rotate the mesh's certificates.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="roots, and what each proxy holds")
    shown = verbs.add_parser("show", help="one certificate, by pod (NAMESPACE/NAME) or serial")
    shown.add_argument("which")
    audit = verbs.add_parser("audit", help="what was issued, refused and rotated, the newest last")
    audit.add_argument("-n", "--lines", type=int, default=30)
    for one in (listing, shown, audit):
        one.add_argument("-o", "--output", choices=["text", "json"], default="text")
        add_timeout(one, 30.0)
    rotate = verbs.add_parser("rotate", help="change the root, its provider or the trust domain; continues if begun")
    rotate.add_argument("--provider", default="", help="builtin, vault, cert-manager; default: the one in force")
    rotate.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the provider")
    rotate.add_argument("--trust-domain", default="", help="default: the one in force")
    rotate.add_argument("--back", action="store_true", help="take back the rotation that is under way")
    add_timeout(rotate, 30.0, "seconds until the mesh has answered; how long the steps take is up to the proxies")
    options = parser.parse_args(argv)
    if options.verb == "rotate":
        return _rotate(options)

    async def work(_: Deadline) -> int:
        rows = await _read(options)
        if options.output == "json":
            output.json(rows)
        else:
            tell(options.verb, rows)
        return 0

    return run(work, options.timeout, of="the log or the Kubernetes API")


def _rotate(options: argparse.Namespace) -> int:
    from cli.certificates import roots
    from cli.certificates.rotation import RootRotation, RotationGoal

    provider = roots.provider_of(options.provider, options.set) if options.provider else None

    async def walk(deadline: Deadline) -> int:
        async with roots.certificate_client() as desk:
            await desk.bundle()
            await desk.roots()
            deadline.lift()
            rotation = RootRotation(desk, lambda sentence: output.line(sentence, flush=True))
            if options.back:
                name = await rotation.back()
            else:
                name = await rotation.forward(RotationGoal(provider=provider, trust_domain=options.trust_domain))
        output.line(f"{name} signs, and is the only root that is trusted")
        return 0

    try:
        return run(walk, options.timeout, of="the log or the Kubernetes API", undone="begun")
    except KeyboardInterrupt:
        output.line("stopped; the mesh is as safe as before. The same command continues, --back takes it back.")
        return 130


async def _read(options: argparse.Namespace) -> list[dict[str, Any]]:
    from cli.certificates import roots, table

    async with roots.certificate_client() as desk:
        match options.verb:
            case "list":
                return await table.listing(desk)
            case "show":
                return [await table.one(desk, options.which)]
            case _:
                return await table.audit(desk, options.lines)


def tell(verb: str, rows: list[dict[str, Any]]) -> None:
    """Print rows of `cli.certificates.table` in the format of the verb."""
    if verb == "show":
        chain = rows[0].pop("certificate")
        output.lines(f"{name}: {value}" for name, value in rows[0].items())
        output.line("certificate:")
        output.block(chain)
    elif verb == "audit":
        output.lines(" ".join(output.cell(value) for value in row.values() if value != "") for row in rows)
    else:
        output.lines(
            "  ".join(f"{name}={output.cell(value)}" if name != "what" else str(value) for name, value in row.items())
            for row in rows
        )
