"""Side by side with peers: one command, one table. See `python -m bench --help`."""
