"""The `sam4mllm` command: one file per subcommand."""
