"""Which build this is: commits, the sidecar annotation and `meshlog version` say so.

The one place of the number; `pyproject.toml` reads it from here.
"""

VERSION = "0.1.0"
