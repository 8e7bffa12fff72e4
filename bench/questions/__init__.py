"""Questions with answers that rules can judge, for the embedded models. See `python -m bench.questions --help`."""
