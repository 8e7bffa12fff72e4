"""Define every table, index and CHECK, by subject.

The database enforces the promises of ledger/rules.py: every charge happens once, and no balance falls below zero.
"""

from __future__ import annotations

from minitoolai.storage.schema import accounts, archive, jobs, ledger, operation, plans, requests, selling, usage, users
from minitoolai.storage.schema.base import metadata

__all__ = [
    "accounts",
    "archive",
    "jobs",
    "ledger",
    "metadata",
    "operation",
    "plans",
    "requests",
    "selling",
    "usage",
    "users",
]
