"""The injector: adds the sidecar to each pod of a member namespace, as a mutating admission webhook.

`core` decides: whether a pod gets a sidecar (`decision`), which probes the proxy answers (`probes`), what the sidecar
consists of (`sidecar_containers`, `proxy_bootstrap`), and the patch (`patch`). `log` follows namespaces and the
MeshConfig; `http` serves the webhooks; `app` composes both. `sidecar_init` is the entry point of the init container.
"""
