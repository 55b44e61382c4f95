"""The `meshlog` command: one module a verb under `cli.verbs`, imported only when it is called.

`kubernetes`, grpc and the protobufs take most of a second to import, so no module that every verb passes through
may import them; verbs import what they need.
"""

import os as _os
import sys as _sys

# `python -m cli` puts the current folder first on the path; what lies there is not to be imported. (The interpreter has
# imported a few modules by then: `meshlog`, or `python -P -m cli`, leaves that folder out from the beginning.)
if _sys.argv[:1] == ["-m"] and not _sys.flags.safe_path:
    _root = _os.path.dirname(_os.path.dirname(_os.path.abspath(__file__)))  # noqa: PTH100, PTH120 (nothing to import)
    if _sys.path and _os.path.abspath(_sys.path[0]) != _root:  # noqa: PTH100
        del _sys.path[0]
