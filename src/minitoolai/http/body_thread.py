"""Run CPU-heavy work on large request bodies in one dedicated thread.

There is only one, so that the CPU time and memory spent on large bodies stay bounded. Python runs one thread at a time,
so work given to this thread must consist of short steps (about 20 ms at most), or it blocks the event loop after all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_thread = ThreadPoolExecutor(1, thread_name_prefix="bodies")


async def run_in_body_thread(work: Callable[..., T], *arguments: object) -> T:
    """Run `work(*arguments)` in the body thread and return its result."""
    return await asyncio.get_running_loop().run_in_executor(_thread, lambda: work(*arguments))
