"""The CA: authenticates workloads by their tokens, signs X.509-SVIDs, and publishes the trust bundle.

`core` decides: what a request must prove (`csr`, `replay_guard`, `cluster_state`), what is signed (`issuer`,
`template`, `validator`), and when a root changes (`rotation_plan`). `keys` stores the private keys, `providers` sign.
`log`, `kubernetes` and `http` connect the CA with the rest; `rotation_controller` rotates roots; `app` composes all of
it.
"""
