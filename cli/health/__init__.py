"""Is the mesh well: one table of checks, judged over facts of Kubernetes and of the log.

`checks` is the table. `meshlog status`, `meshlog verify control-plane`, docs/health.md and the matrix of `make health`
are made from it; what the services' metrics and `/readyz` say of the same is named in its rows.
"""
