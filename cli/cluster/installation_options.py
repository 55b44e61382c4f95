"""Flags that choose an installation: preset, settings, and what is part of it."""

from __future__ import annotations

import argparse

from deploy.install.profile import PRESETS, Profile, chosen
from shared.errors import BadInputError

SETTINGS_EPILOG = """\
presets: minimal (one of everything), ha (survives any node; the default), large (ha, for thousands of proxies)

settings (--set name=value, see docs/install.md): image, nats_image, edges, autoscale, nats_nodes, nats_url, nats_size,
  nats_class, trust_domain, ca_provider, cluster, log_level, pull_policy, pull_secret, spread, network_policies, …
"""


def add_installation(parser: argparse.ArgumentParser) -> None:
    """`--preset` and `--set`."""
    parser.add_argument("--preset", choices=sorted(PRESETS), default="ha", help="what to start from (default ha)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings", help="one setting; may be repeated"
    )


def profile(options: argparse.Namespace) -> Profile:
    """The installation that the flags describe; raises `BadInputError` for an impossible one."""
    settings = {"mesh_name": options.mesh_name, "namespace": options.mesh_namespace}
    for text in options.settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadInputError("install/setting", "needs NAME=VALUE", about=f"--set {text}")
        settings[name.strip()] = value.strip()
    return chosen(options.preset, settings)
