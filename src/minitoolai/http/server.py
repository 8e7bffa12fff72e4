"""Open the listening socket, and raise the limit on open files."""

from __future__ import annotations

import contextlib
import resource
import socket

from minitoolai.core.errors import SettingsError
from minitoolai.settings import Settings

BACKLOG = 2048
#: File descriptors to ask for: a stream needs two, and the process some more.
WANTED_FILES = 65_536


def allow_many_connections() -> None:
    """Raise the soft limit on open files as far as allowed. Many systems start with 1024, enough for 500 streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Some systems refuse values below their hard limit. Then the old limit stays.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def bind_socket(settings: Settings) -> socket.socket:
    """Listen on the host and port of the settings. `reuse_port` allows another server on the same port.

    Raises SettingsError if the port is in use.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server(
            (settings.host, settings.port), family=family, backlog=BACKLOG, reuse_port=settings.reuse_port
        )
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; "
            "another program may be using the port. Choose another --host or --port"
        ) from None


def inherit_socket(fd: int) -> socket.socket:
    """Return the socket that the parent process bound."""
    listening = socket.socket(fileno=fd)
    listening.set_inheritable(False)
    return listening
