"""The command line: one module per sub-command, and the report they share."""
