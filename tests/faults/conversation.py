"""Runs inside a pod: one TCP conversation with the demo's database, for as long as standard input is open.

    python conversation.py HOST PORT        prints `held` once it works; the standard library only

At the end it prints, as JSON, how many answers came and how it ended: `asked to` is the only good way.
"""

from __future__ import annotations

import json
import select
import socket
import sys

_PAUSE = 0.1


def main(host: str, port: str) -> None:
    """Ask for the total until the conversation or the input ends."""
    answers, outcome = 0, "asked to"
    try:
        with socket.create_connection((host, int(port)), 10) as connection, connection.makefile("rb") as answer:
            while not select.select([sys.stdin], [], [], _PAUSE)[0]:
                connection.sendall(b"TOTAL\n")
                if not answer.readline():
                    outcome = "closed"
                    break
                answers += 1
                if answers == 1:
                    sys.stdout.write("held\n")
                    sys.stdout.flush()
    except OSError as error:
        outcome = type(error).__name__
    sys.stdout.write(json.dumps({"answers": answers, "ended": outcome}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
