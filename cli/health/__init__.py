"""Health of the mesh: one table of checks, evaluated on facts of Kubernetes and of the log.

`checks` is the table. `meshlog status`, `meshlog verify control-plane`, docs/health.md and the matrix of `make health`
are made from it. Its rows name the services' metrics and reasons of `/readyz` for the same problem.
"""
