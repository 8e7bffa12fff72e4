"""Share the server of tests/transcription."""

from tests.transcription.conftest import account, far_ear, server, transcription_server, upstream

__all__ = ["account", "far_ear", "server", "transcription_server", "upstream"]
