"""Runs inside a pod: what `/readyz` and `/metrics` of these addresses say, as JSON. The standard library only.

python peek.py ADDRESS...
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

_WITHIN = 1.0


def _get(address: str, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{address}:9091{path}", timeout=_WITHIN) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        return ""


def _look(address: str) -> tuple[str, object, str]:
    return address, json.loads(_get(address, "/readyz") or "{}"), _get(address, "/metrics")


def main(addresses: list[str]) -> None:
    """Ask all of them at once."""
    with ThreadPoolExecutor(16) as pool:
        sys.stdout.write(json.dumps(list(pool.map(_look, addresses))))


if __name__ == "__main__":
    main(sys.argv[1:])
