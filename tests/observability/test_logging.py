"""The log as JSON: which request, which paid work; never what was asked, nor with which key."""

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


def test_a_line_names_the_request_and_its_paid_work(watched: ServerProcess, account: Account) -> None:
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


def test_neither_prompt_nor_secret_nor_signature_is_ever_logged(
    watched: ServerProcess, account: Account, standin: Upstream
) -> None:
    said = [{"role": "user", "content": MARK}]
    for path in ("/api/chat-completions/", "/v1/chat/completions"):
        for model in ("quick", "standin", "nowhere", "no-such-model"):
            post(account, path=path, model=model, messages=said, stream=path.startswith("/api"))
    # Upstreams that repeat the prompt in their errors, refuse our key in words, or say rubbish.
    for status in (400, 401, 429, 500):
        standin.behave = manners.refuse(status, message=f"cannot do {MARK}")
        post(account, model="standin", messages=said)
        post(account, model="standin", messages=said, stream=True)
    standin.behave = manners.raw(MARK.encode() * 10)
    post(account, model="standin", messages=said)
    standin.behave = manners.answer([MARK, MARK])
    assert MARK in post(account, model="standin", messages=said).text
    # Fields that do not fit, a body that is no JSON, a key that is wrong by a letter.
    post(account, messages=MARK)
    url = watched.url + "/api/chat-completions/"
    requests.post(url, data=f'{{"{MARK}', headers={**account.headers, "content-type": "application/json"}, timeout=10)
    wrong = {"authorization": f"Bearer {account.key[:-1]}{'a' if account.key[-1] != 'a' else 'b'}"}
    assert requests.post(url, json={}, headers=wrong, timeout=10).status_code == 401
    picture = _picture(account)
    assert requests.get(picture, timeout=10).status_code == 200
    requests.get(watched.url + f"/password/{MARK}?secret={MARK}", timeout=10)
    log = eventually(lambda: text if "/api/texttoimage/pictures/" in (text := watched.log.read_text()) else None)
    signature = picture.rsplit("signature=", 1)[1]
    secret = account.key.split("-")[3]
    leaks = {"prompt": MARK, "key": secret, "signature": signature, "pepper": "secret.key", "bearer": "Bearer sk-"}
    found = {what for what, text in leaks.items() if text in log.replace(f"/password/{MARK}", "")}
    assert found == set()


def _picture(account: Account) -> str:
    """A picture's signed address; its prompt is marked, and so is that of one which the policy refuses."""
    submit(account, prompt=MARK + " child porn")
    generate(account, prompt=MARK)
    answer = generate(account, prompt=MARK, response_format="url")
    wait(account, job(account, prompt=MARK))
    return str(answer.json()["data"][0]["url"])
