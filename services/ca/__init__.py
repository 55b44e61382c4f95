"""The CA: proves who asks, signs X.509-SVIDs, publishes the trust bundle.

Split by nouns: `authority` (the keys) kept in a `keystore`; `provider` (who signs); `csr`, `replay` and `facts` (what a
request must withstand); `issuer` (the decision), `template` and `validator` (the certificate); `signing_queue`,
`publication` and `distribution` (the rims: the log and Kubernetes).
"""
