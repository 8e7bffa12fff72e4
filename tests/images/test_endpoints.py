"""Tests of the image endpoints over HTTP: submit, poll, events, cancel, links, webhooks, models and usage."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
from typing import Any

import pytest
import requests
from PIL import Image

from minitoolai.images.webhooks import WebhookSecrets
from tests.images.test_webhooks import is_signed
from tests.support.ask import get
from tests.support.images import receiver
from tests.support.server import Account, ServerProcess
from tests.support.studio_http import CREDIT, PRICE, check_image_refusal, job, poll, submit, wait
from tests.support.waiting import eventually


def open_image(state: dict[str, Any], **headers: str) -> requests.Response:
    return requests.get(state["image_url"], headers=headers, timeout=30)


def events(account: Account, one: dict[str, Any], slash: str = "") -> requests.Response:
    url = f"{account.server.url}/api/texttoimage/jobs/{one['jobid']}/events{slash}"
    return requests.get(url, params={"signature": one["signature"]}, timeout=60)


def cancel(account: Account, one: dict[str, Any], slash: str = "") -> requests.Response:
    url = f"{account.server.url}/api/texttoimage/jobs/{one['jobid']}{slash}"
    return requests.delete(url, params={"signature": one["signature"]}, timeout=30)


def test_a_job_becomes_an_image_of_the_requested_size_and_is_charged_once(account: Account) -> None:
    answer = submit(account, width=320, height=257, seed=7)
    assert answer.status_code == 200
    one = answer.json()
    assert set(one) == {"status", "jobid", "signature"}
    assert isinstance(one["jobid"], int)
    assert 0 < one["jobid"] < 2**53
    state = wait(account, {"jobid": one["jobid"], "signature": one["signature"]})
    assert (state["status"], state["message"], state["seed"], state["progress"]) == ("success", "success", 7, 1.0)
    assert state["model"] == "fake-flat-1"
    picture = open_image(state)
    image = Image.open(io.BytesIO(picture.content))
    assert (image.size, image.format) == ((320, 257), "PNG")
    assert account.settled() == CREDIT - PRICE
    name = answer.headers["x-generation-id"]
    assert name == state["generation"]
    found = get(account, f"/v1/generations/{name}").json()
    assert (found["kind"], found["state"], found["cost"]) == ("image", "succeeded", "0.001500000")
    assert account.server.transfers_of(name) == [PRICE]


def test_the_image_contains_its_parameters(account: Account) -> None:
    state = wait(
        account,
        job(
            account,
            prompt="a (red:1.2) äpple",
            negativePrompt="blue",
            scheduler="DPM++ 2M Karras",
            steps=3,
            cfgScale=2.5,
        ),
    )
    image: Any = Image.open(io.BytesIO(open_image(state).content))
    assert image.text["parameters"] == (
        "a (red:1.2) äpple\nNegative prompt: blue\nSteps: 3, Sampler: DPM++ 2M Karras, CFG scale: 2.5, "
        f"Seed: {state['seed']}, Size: 256x256, Model: fake-flat-1, {image.text['parameters'].rpartition(', ')[2]}"
    )


def test_missing_and_null_fields_take_their_defaults(account: Account) -> None:
    nothing = dict.fromkeys(("negativePrompt", "scheduler", "steps", "cfgScale", "width", "height", "seed"))
    state = wait(account, job(account, **nothing, webhook_url=None))
    image: Any = Image.open(io.BytesIO(open_image(state).content))
    assert "Steps: 4, Sampler: DPM++ SDE, CFG scale: 2, " in image.text["parameters"]
    assert image.size == (1024, 1024)
    assert 0 <= state["seed"] < 2**32


def test_whole_numbers_may_be_floats(account: Account) -> None:
    state = wait(account, job(account, steps=2.0, width=256.0, height=300.0, seed=12.0, cfgScale=2))
    assert (state["status"], state["seed"]) == ("success", 12)


@pytest.mark.parametrize("slash", ["", "/"])
def test_every_path_works_with_and_without_a_trailing_slash(account: Account, slash: str) -> None:
    answer = submit(account, f"/api/texttoimage{slash}")
    one = answer.json()
    state = poll(account, {"jobid": str(one["jobid"]), "signature": one["signature"]}, f"/api/texttoimage/jobs{slash}")
    stream, ended = events(account, one, slash), cancel(account, one, slash)
    picture = requests.get(ended.json()["image_url"].replace(".png?", f".png{slash}?"), timeout=30)
    for each in (answer, state, stream, ended, picture):
        assert (each.status_code, each.history) == (200, [])


def test_a_jobid_may_be_a_number_or_its_digits(account: Account) -> None:
    one = job(account)
    wait(account, one)
    for jobid in (one["jobid"], str(one["jobid"]), float(one["jobid"])):
        assert poll(account, {"jobid": jobid, "signature": one["signature"]}).json()["status"] == "success"


def test_a_poll_reports_progress(account: Account) -> None:
    first, second = job(account, model="slow", steps=8), job(account, model="slow", steps=8)
    seen: set[str] = set()
    while (state := poll(account, second).json())["status"] not in ("success", "error"):
        assert state["image_url"] is None
        seen.add(state["message"])
    assert any(re.fullmatch(r"step [0-8] of 8", message) for message in seen), seen
    assert state["status"] == wait(account, first)["status"] == "success"


def test_events_contain_every_step_and_the_image(account: Account) -> None:
    one = job(account, model="slow", steps=4)
    answer = events(account, one)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    blocks = [block.removeprefix("data: ") for block in answer.text.split("\n\n") if block.startswith("data: ")]
    assert blocks[-1] == "[DONE]"
    states = [json.loads(block) for block in blocks[:-1]]
    steps = [state["message"] for state in states if state["status"] == "processing"]
    assert {"step 1 of 4", "step 2 of 4", "step 3 of 4"} <= set(steps)
    assert steps == sorted(steps)
    assert states[-1]["status"] == "success"
    assert open_image(states[-1]).status_code == 200
    assert [state["progress"] for state in states] == sorted(state["progress"] for state in states)


def test_events_of_an_ended_job_contain_only_its_end(account: Account) -> None:
    one = job(account)
    wait(account, one)
    assert events(account, one).text.count("data: ") == 2


def test_a_browser_that_has_seen_the_end_does_not_come_back(account: Account) -> None:
    one = job(account)
    wait(account, one)
    stream = events(account, one).text
    assert re.findall(r"^id: (.*)$", stream, re.MULTILINE) == ["done"]
    url = f"{account.server.url}/api/texttoimage/jobs/{one['jobid']}/events"
    options: dict[str, Any] = {"params": {"signature": one["signature"]}, "timeout": 20}
    again = requests.get(url, headers={"last-event-id": "done"}, **options)
    assert (again.status_code, again.content) == (204, b"")
    assert requests.get(url, headers={"last-event-id": "other"}, **options).text == stream
    waiting = job(account, model="slow", steps=8)
    url = f"{account.server.url}/api/texttoimage/jobs/{waiting['jobid']}/events"
    options["params"] = {"signature": waiting["signature"]}
    assert requests.get(url, headers={"last-event-id": "done"}, stream=True, **options).status_code == 200


def test_a_client_that_disconnects_from_events_does_not_affect_the_job(account: Account) -> None:
    one = job(account, model="slow", steps=8)
    url = f"{account.server.url}/api/texttoimage/jobs/{one['jobid']}/events"
    with requests.get(url, params={"signature": one["signature"]}, stream=True, timeout=30) as answer:
        next(answer.iter_content(20))
    assert wait(account, one)["status"] == "success"


def test_a_cancelled_job_releases_its_hold(account: Account) -> None:
    one = job(account, model="slow", steps=8)
    state = cancel(account, one).json()
    assert (state["status"], state["code"], state["image_url"]) == ("error", "cancelled", None)
    assert "nothing was charged" in state["message"]
    assert account.settled() == CREDIT
    assert cancel(account, one).json() == state
    assert poll(account, one).json() == state


def test_an_ended_job_cannot_be_cancelled(account: Account) -> None:
    one = job(account)
    wait(account, one)
    assert cancel(account, one).json()["status"] == "success"
    assert account.settled() == CREDIT - PRICE


def test_a_failed_job_gives_the_reason_and_is_not_charged(account: Account) -> None:
    state = wait(account, job(account, prompt="an unpaintable thing"))
    assert (state["status"], state["image_url"]) == ("error", None)
    assert "this prompt cannot be generated" in state["message"]
    assert "nothing was charged" in state["message"]
    assert account.settled() == CREDIT


def test_requests_with_the_same_idempotency_key_create_one_job(account: Account) -> None:
    def request(prompt: str) -> requests.Response:
        headers = {**account.headers, "idempotency-key": "order-4711"}
        body = {"model": "flat", "prompt": prompt, "width": 256, "height": 256}
        return requests.post(account.server.url + "/api/texttoimage/", json=body, headers=headers, timeout=30)

    first = request("a red apple").json()
    again = request("a red apple")
    assert again.json() == first
    assert again.headers["idempotent-replayed"] == "true"
    check_image_refusal(request("a green apple"), 422, "idempotency_mismatch")
    wait(account, {"jobid": first["jobid"], "signature": first["signature"]})
    assert account.settled() == CREDIT - PRICE


def test_job_ids_cannot_be_guessed_and_signatures_differ(account: Account) -> None:
    jobs = [job(account) for _ in range(5)]
    ids = [one["jobid"] for one in jobs]
    gaps = [abs(a - b) for a, b in itertools.pairwise(ids)]
    assert min(gaps) > 1000
    assert len({one["signature"] for one in jobs}) == 5
    for one in jobs:
        wait(account, one)


# ── the link ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_link_needs_no_key_and_sends_caching_headers(account: Account) -> None:
    state = wait(account, job(account))
    answer = open_image(state)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
    age = re.fullmatch(r"private, max-age=(\d+), immutable", answer.headers["cache-control"])
    assert age
    assert 3500 < int(age[1]) <= 3600
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_matching_etag_gives_a_304(account: Account) -> None:
    state = wait(account, job(account))
    etag = open_image(state).headers["etag"]
    for tags in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = open_image(state, **{"If-None-Match": tags})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert open_image(state, **{"If-None-Match": '"other"'}).status_code == 200


def test_head_sends_the_headers_of_get(account: Account) -> None:
    state = wait(account, job(account))
    got, head = open_image(state), requests.head(state["image_url"], timeout=30)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "etag"):
        assert head.headers[name] == got.headers[name]


def test_links_never_use_the_host_header(account: Account) -> None:
    one = job(account)
    wait(account, one)
    answer = requests.post(
        account.server.url + "/api/texttoimage/jobs/", json=one, headers={"host": "evil.example.com"}, timeout=30
    )
    assert answer.json()["image_url"].startswith(f"{account.server.url}/api/texttoimage/pictures/{one['jobid']}.png?")


# ── webhooks ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_finished_job_sends_a_webhook_that_the_log_shows(account: Account) -> None:
    with receiver(500, 200) as hook:
        one = job(account, webhook_url=f"http://127.0.0.1:{hook.port}/hook")
        state = wait(account, one)
        eventually(lambda: hook.seen, within_s=10)
        sent = hook.last
        eventually(lambda: get(account, "/api/webhooks/").json()["data"][0]["attempts"], within_s=10)
    mine = get(account, "/api/webhooks").json()
    assert is_signed(mine["secret"], sent.headers, sent.raw)
    assert sent.body["type"] == "image.succeeded"
    assert sent.body["data"]["jobid"] == one["jobid"]
    assert (sent.body["data"]["seed"], sent.body["data"]["model"]) == (state["seed"], state["model"])
    message = mine["data"][0]
    assert (message["id"], message["state"], message["generation"]) == (sent.body["id"], "pending", state["generation"])
    assert [attempt["status"] for attempt in message["attempts"]] == [500]
    assert message["next_attempt_at"] is not None


def test_webhooks_of_another_account_are_not_visible(account: Account) -> None:
    with receiver(200) as hook:
        wait(account, job(account, webhook_url=f"http://127.0.0.1:{hook.port}/"))
        eventually(lambda: hook.seen, within_s=10)
    other = account.server.account()
    mine, theirs = get(account, "/api/webhooks/").json(), get(other, "/api/webhooks/").json()
    assert theirs["data"] == []
    assert theirs["secret"] != mine["secret"]
    assert requests.get(account.server.url + "/api/webhooks/", timeout=10).status_code == 401


def test_the_webhook_secret_is_derived_from_the_server_key(account: Account) -> None:
    secret = get(account, "/api/webhooks/").json()["secret"]
    assert secret != WebhookSecrets(b"").secret_for(account.id)
    assert len(secret) == len("whsec_") + 44


# ── models and usage ──────────────────────────────────────────────────────────────────────────────────────


def test_image_models_are_listed_with_price_and_engine(account: Account) -> None:
    found = get(account, "/v1/models/flat").json()
    assert (found["kind"], found["ready"], found["owned_by"]) == ("image", True, "minitoolai")
    assert found["price"] == {"image": "0.001500000", "currency": "USD"}
    assert {"flat", "slow", "missing"} <= {model["id"] for model in get(account, "/v1/models").json()["data"]}
    missing = get(account, "/v1/models/missing").json()
    assert missing["ready"] is False
    assert (missing["ready"], "weights" in str(missing)) == (False, False)


def test_usage_counts_images(account: Account) -> None:
    for _ in range(2):
        wait(account, job(account))
    line = get(account, "/api/usage/", group_by="model").json()["data"][0]
    assert (line["model"], line["kind"], line["requests"], line["output_units"]) == ("flat", "image", 2, 2)
    assert line["cost"] == "0.003000000"


def test_a_job_that_exceeds_the_balance_is_not_queued(server: ServerProcess) -> None:
    poor = server.account("0.0029")
    first = job(poor)
    check_image_refusal(submit(poor), 402, "insufficient_balance")
    wait(poor, first)
    assert poor.settled() == 1_400_000


def test_a_full_queue_is_refused_with_retry_after(account: Account) -> None:
    jobs = []
    while (answer := submit(account, model="slow", steps=8, width=256 + len(jobs) % 5)).status_code == 200:
        jobs.append(answer.json())
        assert len(jobs) < 60
    check_image_refusal(answer, 429, "rate_limit_exceeded")
    assert int(answer.headers["retry-after"]) > 0
    assert len(jobs) >= 20
    for one in jobs:
        cancel(account, one)
    assert account.settled() >= CREDIT - len(jobs) * PRICE
