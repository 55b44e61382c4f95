"""`python -m tests.grpcio_edge FLAGS`: an edge as `meshlog run xds-edge FLAGS`, on gRPC's server."""

from __future__ import annotations

import sys

from services.xds_edge.__main__ import main
from tests.grpcio_edge.running import grpcio_edges

if __name__ == "__main__":
    with grpcio_edges():
        sys.exit(main(sys.argv[1:]))
