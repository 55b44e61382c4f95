"""The injector: gives each pod of a member namespace its sidecar, as a mutating admission webhook.

Pure core: `decision` (whether), `probes` (which probes go through the proxy), `bootstrap` (the proxy's own
configuration), `sidecar` (the containers and volumes), `patch` (the pod with them, and the difference). At the rim:
`review` (what the API server asks and is answered), `membership` (namespaces and MeshConfig from the log), `webhook`.
"""
