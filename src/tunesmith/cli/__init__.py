"""The command line: a skin on `pipeline` and `use`. Starts without torch."""
