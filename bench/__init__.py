"""Compare the gateway with its peers: one command, one table. See `python -m bench --help`."""
