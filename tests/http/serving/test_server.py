"""Limit on open files, and with it on connections."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource
from minitoolai.http.serving.server import allow_many_connections
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
allow_many_connections()
soft, still = resource.getrlimit(resource.RLIMIT_NOFILE)
assert still == hard
assert soft == (65_536 if hard == resource.RLIM_INFINITY else min(65_536, hard)), (soft, hard)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
allow_many_connections()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (64, 64)
"""


def test_a_server_raises_its_limit_of_open_files_as_far_as_allowed() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
