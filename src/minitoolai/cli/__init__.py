"""The `minitoolai` command line, one module per group of commands."""
