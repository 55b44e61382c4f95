"""The edge of this build on `grpcio`'s server in place of its own: what the own one is measured against.

Not part of the product: everything but the transport is the edge's own code, so that what differs is the server.
"""
