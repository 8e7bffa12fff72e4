"""Test the JSON log: request IDs and generation IDs, but no prompts, keys or signatures."""

from __future__ import annotations

import requests

from tests.support import manners
from tests.support.ask import post
from tests.support.server import Account, ServerProcess
from tests.support.studio_http import generate, job, submit, wait
from tests.support.upstream import Upstream
from tests.support.waiting import eventually
from tests.support.watch import lines

MARK = "xylophone-of-the-customer"


def test_a_log_line_has_the_request_id_and_the_generation_id(watched: ServerProcess, account: Account) -> None:
    named = post(account, stream=True)
    body = {"model": "quick", "messages": [{"role": "user", "content": "hello"}]}
    headers = {**account.headers, "x-request-id": "order-17.b"}
    requests.post(watched.url + "/v1/chat/completions", json=body, headers=headers, timeout=30)
    odd = requests.post(
        watched.url + "/v1/chat/completions", json=body, headers={**headers, "x-request-id": 'no"good'}, timeout=30
    )
    served = eventually(lambda: [line for line in lines(watched) if line["logger"] == "uvicorn.access"][-3:])
    assert served[0]["generation"] == named.headers["x-generation-id"]
    assert served[0]["request"] == named.headers["x-request-id"]
    assert served[1]["request"] == "order-17.b"
    assert served[2]["request"] == odd.headers["x-request-id"] != 'no"good'
    assert [line["status"] for line in served] == [200, 200, 200]
    assert {"time", "level", "message", "path", "method"} <= set(served[0])


def test_prompts_secrets_and_signatures_are_never_logged(
    watched: ServerProcess, account: Account, standin: Upstream
) -> None:
    messages = [{"role": "user", "content": MARK}]
    for path in ("/api/chat-completions/", "/v1/chat/completions"):
        for model in ("quick", "standin", "nowhere", "no-such-model"):
            post(account, path=path, model=model, messages=messages, stream=path.startswith("/api"))
    # Upstreams that quote the prompt in their errors, refuse our key, or send invalid data.
    for status in (400, 401, 429, 500):
        standin.behave = manners.refuse(status, message=f"cannot do {MARK}")
        post(account, model="standin", messages=messages)
        post(account, model="standin", messages=messages, stream=True)
    standin.behave = manners.raw(MARK.encode() * 10)
    post(account, model="standin", messages=messages)
    standin.behave = manners.answer([MARK, MARK])
    assert MARK in post(account, model="standin", messages=messages).text
    # An invalid field, a body that is not JSON, and a key with one wrong letter.
    post(account, messages=MARK)
    url = watched.url + "/api/chat-completions/"
    requests.post(url, data=f'{{"{MARK}', headers={**account.headers, "content-type": "application/json"}, timeout=10)
    wrong = {"authorization": f"Bearer {account.key[:-1]}{'a' if account.key[-1] != 'a' else 'b'}"}
    assert requests.post(url, json={}, headers=wrong, timeout=10).status_code == 401
    picture = _signed_image_url(account)
    assert requests.get(picture, timeout=10).status_code == 200
    requests.get(watched.url + f"/password/{MARK}?secret={MARK}", timeout=10)
    log = eventually(lambda: text if "/api/texttoimage/pictures/" in (text := watched.log.read_text()) else None)
    signature = picture.rsplit("signature=", 1)[1]
    secret = account.key.split("-")[3]
    leaks = {"prompt": MARK, "key": secret, "signature": signature, "pepper": "secret.key", "bearer": "Bearer sk-"}
    found = {what for what, text in leaks.items() if text in log.replace(f"/password/{MARK}", "")}
    assert found == set()


def _signed_image_url(account: Account) -> str:
    """Return the signed URL of an image whose prompt contains MARK; also submit one that moderation refuses."""
    submit(account, prompt=MARK + " child porn")
    generate(account, prompt=MARK)
    answer = generate(account, prompt=MARK, response_format="url")
    wait(account, job(account, prompt=MARK))
    return str(answer.json()["data"][0]["url"])
