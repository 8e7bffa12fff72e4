"""Stored responses of `/v1/responses`: keep, read, continue, delete, and generate them in the background."""
