"""The container runtime of the node: namespaces, files, network, processes; without root or system packages."""
