"""A 404 at a path of another service names the path of ours."""

from __future__ import annotations

import pytest

from minitoolai.api import openapi
from minitoolai.api.foreign_paths import path_meant

CHAT, TEXT, VECTORS, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/openai/deployments/gpt-4o-mini/chat/completions", CHAT),
        ("/openai/deployments/gpt-4o-mini/completions", TEXT),
        ("/openai/deployments/e/embeddings", VECTORS),
        ("/openai/deployments/d/images/generations", "/v1/images/generations"),
        ("/openai/deployments/d/audio/speech", "/v1/audio/speech"),
        ("/openai/deployments", MODELS),
        ("/openai/v1/responses", "/v1/responses"),
        ("/openai/responses", "/v1/responses"),
        ("/v1beta/models/gemini-2.0-flash:generateContent", CHAT),
        ("/v1beta/models/gemini-2.0-flash:streamGenerateContent", CHAT),
        ("/v1/models/gemini-2.0-flash:generateContent", CHAT),
        ("/v1beta/models/e:embedContent", VECTORS),
        ("/v1beta/models/e:batchEmbedContents", VECTORS),
        ("/v1beta/models", MODELS),
        ("/v1beta/openai/chat/completions", CHAT),
        ("/api/chat", CHAT),
        ("/api/generate", CHAT),
        ("/api/embed", VECTORS),
        ("/api/embeddings", VECTORS),
        ("/api/tags", MODELS),
        ("/api/v1/chat/completions", CHAT),
        ("/v1/engines/gpt/completions", TEXT),
        ("/v1/engines/gpt/embeddings", VECTORS),
        ("/v1/engines", MODELS),
        ("/chat/completions", CHAT),
        ("/CHAT/completions/", CHAT),
        ("/V1/chat/completions", CHAT),
        ("//chat//completions", CHAT),
        ("/v1/v1/chat/completions", CHAT),
        ("/v1/chat/completions/chat/completions", CHAT),
        ("/completions", TEXT),
        ("/embeddings", VECTORS),
        ("/models", MODELS),
        ("/responses", "/v1/responses"),
        ("/messages", "/v1/messages"),
        ("/v1/v1/messages", "/v1/messages"),
        ("/v1/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/v1/messages/batches", "/v1/messages"),
        ("/model/anthropic.claude/invoke", CHAT),
        ("/generate_stream", CHAT),
        ("/infill", TEXT),
    ],
)
def test_the_path_of_another_service_names_ours(path: str, meant: str) -> None:
    assert path_meant(path, openapi.describe()["paths"]) == meant
    assert meant in openapi.describe()["paths"]


@pytest.mark.parametrize(
    "path", ["/v1/threads", "/v1/files", "/robots.txt", "/", "/v1", "/v1/realtime", "/" + "a" * 10_000]
)
def test_other_paths_name_none(path: str) -> None:
    assert path_meant(path, openapi.describe()["paths"]) is None
