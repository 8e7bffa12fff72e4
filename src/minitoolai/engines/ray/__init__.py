"""Engines on a Ray cluster. Only `minitoolai worker --ray` and `minitoolai doctor` import this package."""
