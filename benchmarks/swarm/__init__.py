"""A swarm of delta-ADS proxies, to load any xDS server. `python -m benchmarks.swarm --help` teaches it."""
