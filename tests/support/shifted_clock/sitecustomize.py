"""Shift the wall clock of a Python process by what a file says, while it runs. Python imports this module at its start.

Stands for an administrator, or an NTP client, that sets the clock of the machine. tests/support/wall_clock.py uses it.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

_path = os.environ.get("TEST_WALL_CLOCK")
if _path:
    with open(_path, "rb") as _file:
        _shared = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)
    _read = struct.Struct("<q").unpack_from
    _real_ns = time.time_ns

    def _shifted_ns() -> int:
        return _real_ns() + int(_read(_shared)[0])

    def _shifted_s() -> float:
        return _shifted_ns() / 1e9

    time.time_ns, time.time = _shifted_ns, _shifted_s
