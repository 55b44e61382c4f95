"""The Kubernetes API by raw requests: `transport` (connections) and `client` (credentials, bounds, errors).

Each service that talks to the API has an adapter of its own with the verbs that it uses:
`services/ca/kubernetes/client.py` and `services/ingestor/kubernetes/client.py`. The command has a client of its own,
`cli/kubernetes/api_client.py`, because the import of the library that this one stands on takes 0.4 s.
"""
