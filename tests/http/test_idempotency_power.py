"""The machine is lost in the instant after a charge is written: who repeats the request gets the answer it paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support import catalogs
from tests.support.ask import HELLO
from tests.support.cluster import Cluster
from tests.support.dying_server import PROGRAM, STATUS
from tests.support.recordings import tone
from tests.support.server import Account, ServerProcess
from tests.support.waiting import eventually

CATALOG = (
    catalogs.FAKE
    + """
[speech.teller]
price = "15.00"
max_characters = 2000
voice = "tone"
voices = [{ id = "tone", engine = "quick", language = "*", licence = "CC0-1.0" }]

[transcription.heard]
price = "0.006"
engines = ["quick"]

[image.painter]
price = "0.0015"
engines = ["quick"]
"""
)
CHAT = {"model": "quick", "messages": HELLO}
RESPONSE = {"model": "quick", "input": "hello"}
SPEECH = {"model": "teller", "input": "Saturn."}
DRAWING = {"prompt": "a sun", "width": 256, "height": 256, "model": "painter"}
WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "stream": ("/v1/chat/completions", CHAT | {"stream": True}),
    "our own chat": ("/api/chat-completions/", CHAT),
    "completion": ("/v1/completions", {"model": "quick", "prompt": "hello", "stream": True}),
    "messages": ("/v1/messages", CHAT | {"max_tokens": 50}),
    "messages, streamed": ("/v1/messages", CHAT | {"max_tokens": 50, "stream": True}),
    "embedding": ("/v1/embeddings", {"model": "vectors", "input": ["a", "b"]}),
    "response": ("/v1/responses", RESPONSE),
    "response, streamed": ("/v1/responses", RESPONSE | {"stream": True}),
    "response in the background": ("/v1/responses", RESPONSE | {"background": True}),
    "speech": ("/v1/audio/speech", SPEECH),
    "speech as events": ("/v1/audio/speech", SPEECH | {"stream_format": "sse"}),
    "transcription": ("/v1/audio/transcriptions", {"model": "heard"}),
    "transcription, streamed": ("/v1/audio/transcriptions", {"model": "heard", "stream": "true"}),
    "image job": ("/api/texttoimage/", DRAWING),
    "images": ("/v1/images/generations", {"prompt": "a sun", "model": "painter", "size": "256x256"}),
}
#: A server that shares its database writes what it stores in other transactions.
SHARED = ("chat", "stream", "response", "response in the background", "image job", "images")
RECORDING = tone(2)


def ask(account: Account, name: str) -> requests.Response:
    path, body = WHOLE[name]
    form: dict[str, Any] = {"json": body}
    if "transcription" in name:
        form = {"data": body, "files": {"file": ("a.wav", RECORDING)}}
    headers = account.headers | {"idempotency-key": name}
    return requests.post(account.server.url + path, headers=headers, timeout=30, **form)


def check(server: ServerProcess, names: tuple[str, ...]) -> None:
    server.start()
    account = server.account()
    for name in names:
        with pytest.raises(requests.RequestException):
            ask(account, name).raise_for_status()
        assert server.wait() == STATUS, name
        server.start()
        again = eventually(
            lambda name=name: "idempotency_in_flight" not in (seen := ask(account, name)).text and seen, within_s=60
        )
        assert again.status_code == 200, f"{name}: {again.text}"
        # A request that waits for images goes on waiting.
        assert again.headers.get("idempotent-replayed") == (None if name == "images" else "true")
        assert again.headers["x-generation-id"].startswith("gen-")
        assert again.content
        if "response" in name:
            # It was stored as well, and can be continued.
            found = "resp_" + again.text.partition('"resp_')[2].partition('"')[0]
            read = requests.get(f"{server.url}/v1/responses/{found}", headers=account.headers, timeout=30)
            assert read.status_code == 200, f"{name}: {read.text}"
    rows = server.read(lambda c: c.execute("SELECT count(*) FROM generations"))
    assert rows == [(len(names),)]
    # Until the session of the process that died is given up.
    server.check_settled(within_s=60)
    server.kill()


def test_no_charge_is_left_without_its_answer(tmp_path: Path) -> None:
    check(ServerProcess(tmp_path, catalog=CATALOG, program=PROGRAM), tuple(WHOLE))


def test_nor_on_a_shared_database(tmp_path: Path, cluster: Cluster) -> None:
    env = {"MINITOOLAI_DATABASE_URL": cluster.books()}
    check(ServerProcess(tmp_path, catalog=CATALOG, program=PROGRAM, env=env), SHARED)
