"""The whole control plane in one process, on a simulated clock, log and network, driven by a seed.

    PYTHONHASHSEED=0 python -m tests.simulation --seed 7        one run, told step by step
    PYTHONHASHSEED=0 python -m tests.simulation --seeds 0:1000  many, two at a time

Real: ingestors (reflectors, writer, standby, lease), compilers (publication, lease, keyframes), edges (snapshot
follower, fleet, exchange). Simulated: time, the Kubernetes API, the log's server and disk, every link, the proxies.
"""
