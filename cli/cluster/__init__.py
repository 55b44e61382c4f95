"""Administers a mesh in any Kubernetes cluster, through the API alone.

`target` (which cluster), `installation` (install, upgrade, uninstall), `namespace_membership`, `connectivity` (may
this pod call that one). The verbs only parse arguments and print.
"""
