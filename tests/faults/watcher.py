"""Runs inside a pod and prints what its Envoy holds, at each change: a line of JSON with a time.

    python watcher.py              until standard input ends; the standard library only

`at` is the machine's monotonic clock (seconds), the same for every pod and for the suite. Versions are those of the
newest accepted response of each type; `rejected` counts refusals, `connected` is whether there is a stream.
"""

from __future__ import annotations

import http.client
import json
import re
import select
import sys
import time

_PAUSE = 0.04
_WANTED = "/stats?usedonly=false&filter=^(listener_manager.lds|cluster_manager.cds|control_plane)\\."
_LDS = "listener_manager.lds.version_text"
_CDS = "cluster_manager.cds.version_text"


def look(connection: http.client.HTTPConnection) -> dict[str, object]:
    """What Envoy holds now."""
    connection.request("GET", _WANTED)
    text = connection.getresponse().read().decode()
    stats = dict(re.findall(r"^([a-z_.]+): \"?([^\"\n]*)\"?$", text, re.MULTILINE))
    return {
        "lds": int(stats.get(_LDS) or 0),
        "cds": int(stats.get(_CDS) or 0),
        "rejected": int(stats.get("listener_manager.lds.update_rejected") or 0)
        + int(stats.get("cluster_manager.cds.update_rejected") or 0),
        "connected": stats.get("control_plane.connected_state") == "1",
    }


def main() -> None:
    """Print until the parent ends."""
    connection = http.client.HTTPConnection("127.0.0.1", 15000, timeout=5)
    told: dict[str, object] = {}
    while not select.select([sys.stdin], [], [], _PAUSE)[0]:
        try:
            found = look(connection)
        except (OSError, http.client.HTTPException):
            connection.close()
            continue
        if found != told:
            told = found
            sys.stdout.write(json.dumps({"at": time.monotonic(), **found}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
