"""The ingestor: turns what one cluster says (lists and watches) into events of the log, each once and in order.

Pure core: `reflector` (what to ask the API server next), `projection` (which fields matter), `difference` (what
changed against the log), `changesets` (what belongs together). Adapters at the rim: `kube` (the API server),
`writer` (the log), `runner` (one reflector over one source), `issuer` (the cluster's token keys).
"""
