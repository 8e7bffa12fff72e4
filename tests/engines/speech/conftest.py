"""Share the speech server of tests/speech."""

from tests.speech.conftest import account, far_voice, server, speech_server, upstream

__all__ = ["account", "far_voice", "server", "speech_server", "upstream"]
