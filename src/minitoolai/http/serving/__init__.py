"""Serve HTTP with uvicorn: its protocol with our limits, direct writes, lingering close, processes."""
