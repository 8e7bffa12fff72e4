"""Tools for contributors; nothing here is installed."""
