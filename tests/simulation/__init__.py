"""The whole control plane in one process, on a simulated clock, log and network, driven by a seed.

    python -m tests.simulation --seed 7           one run, printed step by step
    python -m tests.simulation --seeds 0:1000     many, on all cores (`make simulate`: 10,000)
    python -m tests.simulation --mistakes         is each planted mistake noticed, and after how many seeds?

Real: ingestors (reflectors, writer, standby, lease, retention), compilers (publication, lease, keyframes), edges
(snapshot follower, fleet, exchange, last good file). Simulated: time (`clock`), the Kubernetes API (`cluster`), the
log's server and disks (`ledger`, `disk`), every way to them (`network`), when a process runs, freezes and dies
(`life`, `processes`), the proxies (`proxies`). `faults` draws what goes wrong; `run`, `checks`, `witness` and
`ledger` check what must hold; `mistakes` breaks the product, to see each check fail.
"""
