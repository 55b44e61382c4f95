"""One factory for each Envoy concept: what queries answered goes in, deterministic protobuf bytes come out."""
