"""Views of workload classes: queries that render what `derive` found, each resource by itself."""
