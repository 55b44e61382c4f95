"""Which build this is: commits, the sidecar annotation and `meshlog version` say so.

The one place of the number; `pyproject.toml` reads it from here.
"""

VERSION = "0.1.0"

ENVOY_VERSION = "1.40.0"
NATS_VERSION = "2.15.1"
"""What the tests of this build run with, and what its installations run unless told otherwise (a test compares them
with the packages that are installed). Patch releases of the same minor version are drop-in."""
