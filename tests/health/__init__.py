"""Each check of `cli.health.checks` provoked on a real mesh, and seen named by all that should name it."""
