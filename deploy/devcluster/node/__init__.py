"""The machine under the devcluster's node agent: namespaces, files, network, processes; no root, no system package."""
