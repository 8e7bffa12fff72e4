"""Tests of stored responses over HTTP: read, continue, refer, list, delete."""

from __future__ import annotations

import base64
import io
import os
from typing import Any

import openai
import pytest
import requests
from openai.types.responses import ResponseItemList
from PIL import Image

from minitoolai.accounts.keys import make_key
from minitoolai.chat.dialects.responses_request import complete_response
from minitoolai.chat.stored.store import History
from minitoolai.core.clock import SystemClock, parse_generation_name
from minitoolai.core.errors import InvalidRequest
from minitoolai.core.models import KeyRules
from minitoolai.http.bodies.large_json import MOST_TEXT
from minitoolai.paths import load_secret_keys
from minitoolai.storage.tables import responses
from minitoolai.storage.tables.accounts import insert_key
from tests.chat.dialects.test_responses import WEATHER, ask, streamed, whole
from tests.support import manners
from tests.support.ask import check_refusal
from tests.support.server import Account, ServerProcess
from tests.support.strict import Response, check
from tests.support.upstream import Upstream
from tests.support.waiting import eventually

USER = {"role": "user", "content": "x"}


def call(account: Account, method: str, path: str, **query: Any) -> requests.Response:
    url = f"{account.server.url}/v1/responses/{path}"
    return requests.request(method, url, params=query, headers=account.headers, timeout=30)


def sent(upstream: Upstream) -> list[tuple[str, Any]]:
    """Return role and content of the messages that the upstream received last."""
    return [(message["role"], message.get("content")) for message in upstream.last.body["messages"]]


def number(name: str) -> int:
    found = parse_generation_name(f"gen-{name[5:]}")
    assert found is not None
    return found


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_stored_as_it_was_sent(account: Account, stream: bool) -> None:
    response = streamed(account)[-1].response if stream else whole(account)
    assert response.store is True
    again = call(account, "GET", response.id)
    assert again.status_code == 200
    assert check(Response, again.json()) == response


def test_another_account_and_an_unknown_name_get_the_same_404(account: Account) -> None:
    name = whole(account).id
    stranger = account.server.account()
    for method, path in (
        ("GET", name), ("DELETE", name), ("GET", f"{name}/input_items"), ("POST", f"{name}/cancel"),
    ):  # fmt: skip
        told = check_refusal(call(stranger, method, path), 404, "not_found", "response_id")
        unknown = check_refusal(call(stranger, method, path.replace(name, "resp_1")), 404, "not_found", "response_id")
        assert told.replace(name, "resp_1") == unknown
    assert call(account, "GET", name).status_code == 200


def test_a_key_is_needed(account: Account) -> None:
    name = whole(account).id
    answer = requests.get(f"{account.server.url}/v1/responses/{name}", timeout=30)
    check_refusal(answer, 401, "invalid_api_key", "Authorization")


def test_nothing_is_kept_of_a_response_that_is_not_to_be_stored(account: Account) -> None:
    response = whole(account, store=False)
    assert response.store is False
    check_refusal(call(account, "GET", response.id), 404, "not_found", "response_id")
    refused = ask(account, previous_response_id=response.id)
    check_refusal(refused, 404, "previous_response_not_found", "previous_response_id")
    items = [USER, {"type": "item_reference", "id": response.output[0].id}]
    assert "store" in check_refusal(ask(account, input=items), 404, "not_found", "input")


def test_a_conversation_continues(account: Account, upstream: Upstream) -> None:
    first = whole(account, model="standin", input="One", instructions="Be terse.")
    said = first.output_text
    second = whole(account, model="standin", input=[{"role": "user", "content": "Two"}], previous_response_id=first.id)
    assert second.previous_response_id == first.id
    # Instructions are not carried over, as in OpenAI's API.
    assert sent(upstream) == [("user", "One"), ("assistant", said), ("user", "Two")]
    third = streamed(account, model="standin", input="Three", previous_response_id=second.id, instructions="Rhyme.")
    assert third[-1].response.previous_response_id == second.id
    assert sent(upstream) == [
        ("developer", "Rhyme."),
        ("user", "One"),
        ("assistant", said),
        ("user", "Two"),
        ("assistant", said),
        ("user", "Three"),
    ]


def test_a_conversation_may_change_its_model(account: Account, upstream: Upstream) -> None:
    first = whole(account, input="One")
    whole(account, model="standin", input="Two", previous_response_id=first.id)
    assert sent(upstream) == [("user", "One"), ("assistant", first.output_text), ("user", "Two")]


def test_a_conversation_can_branch(account: Account, upstream: Upstream) -> None:
    first = whole(account, model="standin", input="One")
    for text in ("Left", "Right"):
        whole(account, model="standin", input=text, previous_response_id=first.id)
        assert sent(upstream) == [("user", "One"), ("assistant", first.output_text), ("user", text)]


def test_a_hundred_turns_are_stored_once_and_read_back(account: Account, upstream: Upstream) -> None:
    name = None
    for turn in range(100):
        more = {} if name is None else {"previous_response_id": name}
        name = whole(account, model="standin", input=f"Turn {turn}", **more).id
    assert len(upstream.last.body["messages"]) == 199
    sizes = account.server.read(lambda c: responses.sizes(c, [number(str(name))]))
    assert sizes[0].request < 100
    assert account.server.read(lambda c: responses.total_bytes(c, account.id)) < 100 * 2500


def test_a_conversation_that_has_lost_a_turn_is_refused(account: Account) -> None:
    first = whole(account).id
    second = whole(account, previous_response_id=first).id
    assert call(account, "DELETE", first).status_code == 200
    assert call(account, "GET", second).status_code == 200
    told = check_refusal(
        ask(account, previous_response_id=second), 404, "previous_response_not_found", "previous_response_id"
    )
    assert first in told
    assert "Send the whole conversation" in told


def test_a_response_of_another_account_cannot_be_continued_or_referred_to(account: Account) -> None:
    response = whole(account)
    stranger = account.server.account()
    refused = ask(stranger, previous_response_id=response.id)
    check_refusal(refused, 404, "previous_response_not_found", "previous_response_id")
    for name in (response.output[0].id, f"msg_{response.id[5:]}_i0"):
        refused = ask(stranger, input=[USER, {"type": "item_reference", "id": name}])
        check_refusal(refused, 404, "not_found", "input")
    assert stranger.settled() == 5_000_000_000


@pytest.mark.parametrize("name", ["msg_1", "x" * 5000, "msg_00000000000_0", "msg_00000000000_i999999"])
def test_an_unknown_item_is_refused_with_the_remedy(account: Account, name: str) -> None:
    refused = ask(account, input=[USER, {"type": "item_reference", "id": name}])
    assert "Send the item itself" in check_refusal(refused, 404, "not_found", "input")


def test_items_are_referred_to_as_the_sdk_of_vercel_does(account: Account, upstream: Upstream) -> None:
    first = whole(account, model="standin", input="One")
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "One"}]},
        {"type": "item_reference", "id": first.output[0].id},
        {"role": "user", "content": "Two"},
    ]
    second = whole(account, model="standin", input=items)
    assert sent(upstream) == [("user", "One"), ("assistant", first.output_text), ("user", "Two")]
    # References in a conversation that is continued are followed, too.
    whole(account, model="standin", input="Three", previous_response_id=second.id)
    assert sent(upstream)[1] == ("assistant", first.output_text)
    assert len(sent(upstream)) == 5


def test_an_item_of_an_input_can_be_referred_to(account: Account, upstream: Upstream) -> None:
    first = whole(account, model="standin", input="One")
    (item,) = call(account, "GET", f"{first.id}/input_items").json()["data"]
    whole(account, model="standin", input=[{"id": item["id"]}, USER])
    assert sent(upstream) == [("user", "One"), ("user", "x")]


def test_a_call_of_a_tool_is_continued(account: Account, upstream: Upstream) -> None:
    first = whole(account, input="weather?", tools=[WEATHER])
    calls = [item for item in first.output if item.type == "function_call"]
    result = {"type": "function_call_output", "call_id": calls[0].call_id, "output": "18 degrees"}
    whole(account, model="standin", input=[result], tools=[WEATHER], previous_response_id=first.id)
    messages = upstream.last.body["messages"]
    assert messages[-1] == {"role": "tool", "tool_call_id": calls[0].call_id, "content": "18 degrees"}
    assert messages[-2]["tool_calls"][0]["id"] == calls[0].call_id


def test_a_key_reads_only_what_its_models_made(account: Account) -> None:
    name = whole(account).id
    secrets = load_secret_keys(account.server.settings)
    key = make_key(account.id, "ruled", secrets, SystemClock(), KeyRules(models=("paced",)))
    account.server.write(lambda c: insert_key(c, key.row))
    ruled = Account(account.server, account.id, account.email, key.text)
    for method, path in (("GET", name), ("GET", f"{name}/input_items"), ("DELETE", name)):
        check_refusal(call(ruled, method, path), 403, "model_not_allowed", "model")
    check_refusal(ask(ruled, model="paced", previous_response_id=name), 403, "model_not_allowed", "model")
    items = [USER, {"type": "item_reference", "id": f"msg_{name[5:]}_0"}]
    check_refusal(ask(ruled, model="paced", input=items), 403, "model_not_allowed", "model")


# ── input items ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_items_of_an_input_are_listed_in_pages(account: Account) -> None:
    items = [{"role": "user", "content": f"Item {index}"} for index in range(5)]
    name = whole(account, input=items).id
    path = f"{name}/input_items"
    page = call(account, "GET", path, limit=2).json()
    check(ResponseItemList, page)
    assert [item["content"][0]["text"] for item in page["data"]] == ["Item 4", "Item 3"]
    assert (page["has_more"], page["first_id"], page["last_id"]) == (True, page["data"][0]["id"], page["data"][1]["id"])
    page = call(account, "GET", path, limit=3, after=page["last_id"]).json()
    assert [item["content"][0]["text"] for item in page["data"]] == ["Item 2", "Item 1", "Item 0"]
    assert page["has_more"] is False
    page = call(account, "GET", path, order="asc", after=page["last_id"]).json()
    assert [item["content"][0]["text"] for item in page["data"]] == ["Item 1", "Item 2", "Item 3", "Item 4"]
    last = call(account, "GET", path, after=f"msg_{name[5:]}_i0").json()
    assert (last["data"], last["first_id"], last["has_more"]) == ([], None, False)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"), ({"limit": "101"}, "limit"), ({"limit": "x"}, "limit"), ({"limit": "²"}, "limit"),
        ({"limit": "9" * 5000}, "limit"), ({"limit": "00000001" + "0" * 5000}, "limit"),
        ({"limit": "00000000011"}, "limit"), ({"order": "up"}, "order"), ({"after": "msg_1"}, "after"),
    ],
)  # fmt: skip
def test_a_wrong_page_is_refused(account: Account, query: dict[str, str], param: str) -> None:
    name = whole(account).id
    check_refusal(call(account, "GET", f"{name}/input_items", **query), 400, "invalid_request", param)


def test_references_are_listed_as_their_items_while_these_are_stored(account: Account) -> None:
    first = whole(account)
    second = whole(account, input=[{"type": "item_reference", "id": first.output[0].id}, USER])
    path = f"{second.id}/input_items"
    assert call(account, "GET", path, order="asc").json()["data"][0] == first.output[0].model_dump(exclude_unset=True)
    call(account, "DELETE", first.id)
    reference = {"type": "item_reference", "id": first.output[0].id}
    assert call(account, "GET", path, order="asc").json()["data"][0] == reference


# ── deletion and retention ────────────────────────────────────────────────────────────────────────────────


def test_a_response_is_deleted_once(account: Account) -> None:
    name = whole(account).id
    deleted = call(account, "DELETE", name)
    assert (deleted.status_code, deleted.json()) == (200, {"id": name, "object": "response", "deleted": True})
    for method, path in (("DELETE", name), ("GET", name), ("GET", f"{name}/input_items")):
        check_refusal(call(account, method, path), 404, "not_found", "response_id")
    assert account.server.read(lambda c: responses.total_bytes(c, account.id)) == 0


def test_an_expired_response_is_not_found(account: Account) -> None:
    name = whole(account).id
    account.server.write(lambda c: c.execute("UPDATE responses SET expires_ms = 5 WHERE id = ?", (number(name),)))
    check_refusal(call(account, "GET", name), 404, "not_found", "response_id")
    check_refusal(call(account, "DELETE", name), 404, "not_found", "response_id")
    refused = ask(account, previous_response_id=name)
    check_refusal(refused, 404, "previous_response_not_found", "previous_response_id")


def test_what_is_stored_is_not_readable_in_the_database(account: Account) -> None:
    name = whole(account, input="zebra-crossing").id
    row = account.server.read(lambda c: c.execute("SELECT * FROM responses WHERE id = ?", (number(name),)))
    assert row
    assert b"zebra" not in repr(row).encode()


def test_a_response_of_a_failed_stream_is_not_stored(account: Account, upstream: Upstream) -> None:
    upstream.behave = manners.break_off("error")
    response = streamed(account, model="standin")[-1].response
    assert response.status == "failed"
    check_refusal(call(account, "GET", response.id), 404, "not_found", "response_id")


def test_a_row_copied_over_another_is_not_readable(account: Account) -> None:
    one, other = whole(account).id, whole(account).id
    copy = "UPDATE responses SET response = (SELECT response FROM responses WHERE id = ?) WHERE id = ?"
    account.server.write(lambda c: c.execute(copy, (number(one), number(other))))
    check_refusal(call(account, "GET", other), 404, "not_found", "response_id")


# ── a server that keeps nothing, and one with little room ─────────────────────────────────────────────────

CATALOG = """
[engines.quick]
kind = "fake"
model = "fake-quick-1"
tokens = 16

[chat.quick]
input = "0.15"
output = "0.60"
context = 128_000
max_output = 4096
engines = ["quick"]
"""


def test_a_server_that_keeps_nothing_says_what_to_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    env = {"MINITOOLAI_RESPONSE_RETENTION_HOURS": "0"}
    with ServerProcess(tmp_path_factory.mktemp("forgetful"), catalog=CATALOG, env=env) as server:
        account = server.account()
        response = whole(account, store=True)
        assert response.store is False
        assert server.read(lambda c: c.execute("SELECT count(*) FROM responses")) == [(0,)]
        check_refusal(call(account, "GET", response.id), 404, "not_found", "response_id")
        remedies = {
            "previous_response_id": {"previous_response_id": response.id},
            "input": {"input": [USER, {"type": "item_reference", "id": response.output[0].id}]},
            "background": {"background": True},
        }
        for param, fields in remedies.items():
            told = check_refusal(ask(account, **fields), 400, "invalid_request", param)
            assert "responses are not stored on this server" in told


def test_the_oldest_responses_of_an_account_make_room(tmp_path_factory: pytest.TempPathFactory) -> None:
    env = {"MINITOOLAI_RESPONSE_STORE_MB": "1"}
    with ServerProcess(tmp_path_factory.mktemp("small"), catalog=CATALOG, env=env) as server:
        account, other = server.account(), server.account()
        kept = whole(other).id
        names = [whole(account, input="x" * 300_000).id for _ in range(5)]
        assert [call(account, "GET", name).status_code for name in names] == [404, 404, 200, 200, 200]
        assert call(other, "GET", kept).status_code == 200
        assert server.read(lambda c: responses.total_bytes(c, account.id)) < 1024 * 1024


def test_a_conversation_is_continued_up_to_twenty_megabytes(account: Account, upstream: Upstream) -> None:
    noise = Image.frombytes("RGB", (1400, 1250), os.urandom(1400 * 1250 * 3))
    data = io.BytesIO()
    noise.save(data, "PNG")
    image = {"type": "input_image", "image_url": "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()}
    name = None
    for _ in range(3):
        more = {} if name is None else {"previous_response_id": name}
        made = ask(account, model="whole", input=[{"role": "user", "content": [image]}], **more)
        assert made.status_code == 200, made.text
        name = made.json()["id"]
    refused = ask(account, model="whole", previous_response_id=name)
    told = check_refusal(refused, 400, "invalid_request", "previous_response_id")
    assert "at most 20 MB" in told


def test_the_text_of_a_conversation_is_limited_like_that_of_a_body() -> None:
    half = {"role": "user", "content": "x" * (MOST_TEXT // 2 + 1)}
    fields = {"model": "m", "input": [half], "previous_response_id": "resp_1"}
    assert complete_response(fields.copy(), History(), keeps=True).text_bytes < MOST_TEXT
    with pytest.raises(InvalidRequest, match="bytes of text"):
        complete_response(fields, History([half]), keeps=True)


# ── OpenAI's own client ───────────────────────────────────────────────────────────────────────────────────


def test_the_client_of_openai_uses_all_of_it(account: Account) -> None:
    client = openai.OpenAI(base_url=f"{account.server.url}/v1", api_key=account.key, max_retries=0)
    first = client.responses.create(model="quick", input="One")
    second = client.responses.create(model="quick", input="Two", previous_response_id=first.id)
    assert client.responses.retrieve(second.id) == second
    listed = [item.id for item in client.responses.input_items.list(second.id, limit=1)]
    assert listed == [f"msg_{second.id[5:]}_i0"]
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)
    with pytest.raises(openai.NotFoundError, match="Previous response with id"):
        client.responses.create(model="quick", input="Three", previous_response_id=second.id)
    with pytest.raises(openai.BadRequestError, match="cannot be cancelled"):
        client.responses.cancel(first.id)
    queued = client.responses.create(model="quick", input="Four", background=True, previous_response_id=first.id)
    assert queued.status == "queued"
    eventually(lambda: client.responses.retrieve(queued.id).status == "completed")
    assert client.responses.retrieve(queued.id).output_text.startswith("token-0")


def test_references_to_too_many_responses_are_refused(account: Account) -> None:
    items = [{"type": "item_reference", "id": f"msg_0{index:010}_0"} for index in range(1001)]
    told = check_refusal(ask(account, input=items), 400, "invalid_request", "input")
    assert "1001 responses" in told
