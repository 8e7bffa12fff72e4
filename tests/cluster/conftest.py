"""Mark every test here: they start real servers, and those of some modules measure time."""

from __future__ import annotations

from pathlib import Path

import pytest

#: Modules that measure no time, or seconds: they wait for others most of the time, so other tests may run beside them.
PATIENT = ("test_limits.py", "test_ray_host.py", "test_ray_worker.py", "test_standby.py", "test_workers.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.acceptance)
            if item.path.name not in PATIENT:
                item.add_marker(pytest.mark.timing)
