"""Adapters to whoever does the work; each is self-contained and knows nothing of money or storage."""
