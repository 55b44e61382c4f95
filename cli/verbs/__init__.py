"""One module a verb; each has `main(argv) -> int`."""
