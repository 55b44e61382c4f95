"""The version of this build; commits, the sidecar annotation and `meshlog version` hold it.

The one place of the number; `pyproject.toml` reads it from here.
"""

VERSION = "0.1.0"

ENVOY_VERSION = "1.40.0"
NATS_VERSION = "2.15.1"
"""The versions that the tests of this build use, and installations by default (a test compares them with the packages
that are installed). Patch releases of the same minor version are drop-in."""
