"""A mesh in any Kubernetes cluster, as its administrator sees it: through the API alone.

`target` (which cluster), `installation` (install, upgrade, uninstall), `membership` (namespaces), `health`,
`connectivity` (may this pod call that one). The verbs are thin over these.
"""
