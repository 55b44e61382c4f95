"""A stock gRPC client, as a process: for each line `N` it makes N calls and prints the answers, counted, as JSON."""

from __future__ import annotations

import json
import sys
from collections import Counter

import grpc


def main(target: str) -> None:
    """Dial once, then call for each line."""
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_unary("/test.Bookstore/Who")
        for line in sys.stdin:
            answers: Counter[str] = Counter()
            for _ in range(int(line)):
                try:
                    answers[bytes(call(b"", timeout=3)).decode()] += 1
                except grpc.RpcError as error:
                    answers[f"{error.code().name}: {error.details()}"] += 1  # pyright: ignore[reportAttributeAccessIssue]
            print(json.dumps(answers), flush=True)  # noqa: T201 (it is its answer)


if __name__ == "__main__":
    main(sys.argv[1])
