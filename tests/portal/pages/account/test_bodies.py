"""Requests and responses that a customer has stored: by whom, of which kinds, shown to whom, and gone when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from minitoolai.core.clock import generation_name, parse_generation_name
from minitoolai.storage.tables import reports, users
from tests.portal.pages.account.test_usage import account_of, key_with_money
from tests.support import all_kinds
from tests.support.browse import Visitor, new_user
from tests.support.recordings import tone
from tests.support.server import ServerProcess
from tests.support.team import new_member
from tests.support.waiting import eventually

PAGE = "/usage/bodies"
PROMPT = "the plans of the <b>harbour</b>"


def turn_on(visitor: Visitor, days: str = "3") -> None:
    visitor.open(PAGE)
    visitor.submit(PAGE, days=days)


def say(server: ServerProcess, key: str, text: str = PROMPT, **fields: object) -> str:
    """Send a chat and return the name of its generation."""
    body = {"model": "fake-chat", "messages": [{"role": "user", "content": text}], **fields}
    answer = requests.post(
        server.url + "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    return answer.headers["x-generation-id"]


def stored(server: ServerProcess, name: str) -> bool:
    number = parse_generation_name(name)
    return bool(server.read(lambda c: c.execute("SELECT 1 FROM request_bodies WHERE id = ?", (number,))))


def wait_until_stored(server: ServerProcess, name: str) -> None:
    eventually(lambda: stored(server, name))


@pytest.fixture
def storing(member: Visitor, email: str) -> str:
    """The key of an account that has bodies stored, a second after that was turned on."""
    turn_on(member)
    assert "Requests and responses are stored from now on." in member.page.text
    return key_with_money(member, email)


def test_nothing_is_stored_unless_an_owner_turns_it_on(member: Visitor, email: str, server: ServerProcess) -> None:
    key = key_with_money(member, email)
    name = say(server, key)
    for days in ("0", "31", "-1", "x", ""):
        turn_on(member, days)
        assert member.page.status_code == 422, days
    assert not stored(server, name)
    assert "Stored request" not in member.open(f"/usage/requests/{name}").text
    turn_on(member)
    later: list[str] = []

    def is_stored() -> bool:
        later.append(say(server, key))
        return any(stored(server, one) for one in later)

    eventually(is_stored)
    assert not stored(server, name)
    assert "stored for 3 days" in member.open(PAGE).text


@pytest.mark.parametrize("stream", [False, True])
def test_request_and_response_are_on_the_page_of_the_request(
    member: Visitor, server: ServerProcess, storing: str, stream: bool
) -> None:
    name = say(server, storing, stream=stream)
    wait_until_stored(server, name)
    page = member.open(f"/usage/requests/{name}").text
    assert "Stored request" in page
    assert "Stored response" in page
    assert "the plans of the &lt;b&gt;harbour&lt;/b&gt;" in page
    assert "data: {" not in page
    # Neither the log of the server nor the database has the text.
    assert PROMPT not in server.log.read_text()
    number = parse_generation_name(name)
    row = server.read(lambda c: c.execute("SELECT request, response FROM request_bodies WHERE id = ?", (number,)))[0]
    assert b"harbour" not in bytes(row[0]) + bytes(row[1])


def test_long_bodies_are_cut_and_say_so(member: Visitor, server: ServerProcess, storing: str) -> None:
    name = say(server, storing, f"{'w' * 99} " * 900)
    wait_until_stored(server, name)
    page = member.open(f"/usage/requests/{name}").text
    assert "Only the beginning is stored" in page
    assert len(page) < 150_000


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("kinds"), catalog=all_kinds.CATALOG) as server:
        yield server


def test_speech_images_and_recordings_store_what_was_asked_for_and_no_media(kinds: ServerProcess) -> None:
    member = new_user(kinds, "media@example.com")
    turn_on(member)
    headers = {"authorization": f"Bearer {key_with_money(member, 'media@example.com')}"}

    def post(path: str, **body: Any) -> str:
        answer = requests.post(kinds.url + path, headers=headers, timeout=60, **body)
        assert answer.status_code == 200, answer.text
        return answer.headers["x-generation-id"]

    drawn = {"model": "painter", "prompt": "a harbour at night", "size": "256x256", "response_format": "b64_json"}
    recording = tone(0.5)
    done = {
        post("/v1/audio/speech", json={"model": "teller", "input": "Read the harbour", "response_format": "wav"}): (
            "Read the harbour", False,
        ),
        post("/v1/images/generations", json=drawn): ("a harbour at night", False),
        post(
            "/v1/audio/transcriptions", files={"file": ("a.wav", recording)},
            data={"model": "hearer", "prompt": "Names: Harbour"},
        ): ("Names: Harbour", True),
    }  # fmt: skip
    for name, (text, has_response) in done.items():
        wait_until_stored(kinds, name)
        page = member.open(f"/usage/requests/{name}").text
        assert text in page
        assert ("Stored response" in page) is has_response
        assert "RIFF" not in page


def test_roles_other_accounts_and_the_operator_s_view(
    member: Visitor, email: str, server: ServerProcess, storing: str
) -> None:
    name = say(server, storing)
    wait_until_stored(server, name)
    account = account_of(server, email)
    for role, can_read in (("developer", True), ("viewer", False), ("billing", False)):
        person = new_member(server, account, f"{role}-{email}", role)
        assert ("Stored request" in person.open(f"/usage/requests/{name}").text) is can_read, role
        assert person.open(PAGE).status_code == 403
    stranger = new_user(server, f"stranger-{email}")
    assert stranger.open(f"/usage/requests/{name}").status_code == 404
    boss = new_user(server, f"boss-{email}", is_admin=True)
    boss.open(f"/admin/accounts/{account}")
    boss.submit(f"/admin/accounts/{account}/view")
    seen = boss.open(f"/usage/requests/{name}").text
    assert name in seen
    assert "Stored request" not in seen
    assert "harbour" not in boss.open(f"/admin/requests/{name}").text


def test_turning_off_erases_and_the_export_has_what_is_stored(
    member: Visitor, email: str, server: ServerProcess, storing: str
) -> None:
    name = say(server, storing)
    wait_until_stored(server, name)
    told = json.loads(server.command("account", "export", email).stdout)
    (row,) = told["request_bodies"]
    assert generation_name(row["id"]) == name
    assert json.loads(row["request"])["messages"][0]["content"] == PROMPT
    assert row["response"]
    assert "wrapped_key" not in told["body_settings"][0]
    member.open(PAGE)
    member.submit(f"{PAGE}/off")
    assert "what was stored is deleted" in member.page.text
    assert "Stored request" not in member.open(f"/usage/requests/{name}").text
    told = json.loads(server.command("account", "export", email).stdout)
    assert [one["request"] for one in told["request_bodies"]] in ([], [None])
    log = member.open("/team/log").text
    assert "Turned on stored requests" in log
    assert "Turned off stored requests" in log


def test_deleting_the_account_takes_everything_away(email: str, member: Visitor, server: ServerProcess) -> None:
    turn_on(member)
    key = key_with_money(member, email)
    name = say(server, key)
    wait_until_stored(server, name)
    user = server.read(lambda c: users.find_user(c, email))[0]
    eventually(lambda: not any(row.is_pending for row in _recent(server, user.account_id)))
    done = server.command("account", "delete", email, "--yes")
    assert done.returncode == 0, done.stderr
    for table in ("request_bodies", "body_settings"):
        sql = f"SELECT count(*) FROM {table} WHERE account_id = ?"
        assert server.read(lambda c, sql=sql: c.execute(sql, (user.account_id,)))[0][0] == 0


def _recent(server: ServerProcess, account_id: int) -> list[reports.RecentRequest]:
    found: list[reports.RecentRequest] = server.read(lambda c: reports.recent_requests(c, account_id, 9))
    return found
