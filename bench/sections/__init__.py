"""The measurements of `make bench` beside its table, one module each: gateways in, a list of results out."""
