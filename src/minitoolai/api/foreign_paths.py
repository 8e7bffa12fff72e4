"""Suggest the path of this API for a client of another service, or for one with a wrong base URL."""

from __future__ import annotations

import re
from collections.abc import Collection

_CHAT, _TEXT, _VECTORS, _MODELS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models"
_MESSAGES = "/v1/messages"
_SPEECH, _IMAGES = "/v1/audio/speech", "/v1/images/generations"
#: Paths of other services → ours. Azure's deployments, Gemini's models and Ollama's API are the most frequent.
_FOREIGN: tuple[tuple[str, str], ...] = (
    (r"/v\d(alpha|beta)?\d?/models/[^/]+:(batch)?embedcontents?", _VECTORS),
    (r"/v\d(alpha|beta)?\d?/models/[^/]+:(stream)?(generate|count)\w+", _CHAT),
    (r"/v1(alpha|beta)\d?/models(/.*)?", _MODELS),
    (r"/v1(/projects|beta\d?/projects)/.*:(stream)?(raw)?(generate|predict)\w*", _CHAT),
    (r"/api/(chat|generate)", _CHAT),
    (r"/api/embed(dings?)?", _VECTORS),
    (r"/api/(tags|ps|show|models)", _MODELS),
    (r"(/v1|/openai)?/(engines|deployments)", _MODELS),
    (r"/(v\d/)?messages(/.*)?", _MESSAGES),
    (r"/v\d/complete", _MESSAGES),
    (r"/v\d/(chat|generate)", _CHAT),
    (r"/v1/fim/completions", _TEXT),
    (r"/v\d/embed", _VECTORS),
    (r"/model/[^/]+/(invoke|converse).*", _CHAT),
    (r"/(chat|generate|generate_stream)", _CHAT),
    (r"/(completion|completions|infill)", _TEXT),
    (r"/(embed|embedding|embeddings)", _VECTORS),
)
_PATTERNS = [(re.compile(pattern), ours) for pattern, ours in _FOREIGN]
#: Ends of paths, the longest first. Anything may stand before them, such as a deployment or a second /v1.
_ENDS = (
    ("/chat/completions", _CHAT),
    ("/images/generations", _IMAGES),
    ("/audio/speech", _SPEECH),
    ("/audio/voices", "/v1/audio/voices"),
    ("/completions", _TEXT),
    ("/embeddings", _VECTORS),
    ("/responses", "/v1/responses"),
    ("/messages/count_tokens", "/v1/messages/count_tokens"),
    ("/messages", _MESSAGES),
    ("/models", _MODELS),
)


def path_meant(path: str, paths: Collection[str]) -> str | None:
    """Return our path with the function that this one has in another API, or None. `paths` are those that exist."""
    wanted = re.sub("/+", "/", path[:1000]).rstrip("/").lower()
    if wanted in paths:
        return wanted
    for pattern, ours in _PATTERNS:
        if pattern.fullmatch(wanted):
            return ours
    return next((ours for end, ours in _ENDS if wanted.endswith(end)), None)
