"""The subcommands of `meshlog`: one module each, with `main(argv) -> int`."""
