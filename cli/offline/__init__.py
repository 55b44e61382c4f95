"""Compile a folder of manifests without a cluster."""
