"""Migrate a database in a process of its own, so that a server does not keep the libraries for it in memory.

SQLAlchemy and Alembic take 30 MB. Run as `python -m minitoolai.storage.migrating`, it reads the address of the database
on standard input, because arguments are visible to other users, and prints a refusal.
"""

from __future__ import annotations

import subprocess
import sys

from minitoolai.core.errors import StoreError
from minitoolai.core.parent import die_with_parent
from minitoolai.storage.opening import current_revision, migrate, newest_revision

#: Exit status for a refusal that was printed.
_REFUSED = 3


def migrate_apart(url: str) -> None:
    """Run the missing migrations. Raises StoreError."""
    if current_revision(url) == newest_revision():
        return
    command = [sys.executable, "-m", "minitoolai.storage.migrating"]
    child = subprocess.run(command, input=url, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - ourselves
    if child.returncode == _REFUSED:
        raise StoreError(child.stdout.strip())
    child.check_returncode()


def main() -> int:
    """Migrate the database whose address is on standard input."""
    die_with_parent()
    try:
        migrate(sys.stdin.read())
    except StoreError as error:
        sys.stdout.write(str(error))
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
