"""Share the monitored server of tests/observability."""

from tests.observability.conftest import account, standin, watched

__all__ = ["account", "standin", "watched"]
