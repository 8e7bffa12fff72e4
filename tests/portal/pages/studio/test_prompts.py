"""Saved prompts over HTTP: per member, named, edited, deleted, bounded, exported and erased."""

from __future__ import annotations

import itertools
import json

import pytest

from minitoolai.portal.pages.studio.prompts import MAX_NAME_LENGTH, MAX_PROMPTS, MAX_TEXT_LENGTH
from minitoolai.storage.tables import members, saved_prompts
from minitoolai.storage.tables.saved_prompts import SavedPrompt
from tests.support.browse import PASSWORD, Visitor, new_user
from tests.support.server import ServerProcess
from tests.support.team import new_member, number_of

_numbers = itertools.count(1)
FIELDS = {
    "prompt_name": "Greeting", "model": "fake-chat", "developer": "Be <b>kind</b>.", "message": "Say hello",
    "temperature": "0.3", "limit": "77", "seed": "5",
}  # fmt: skip


@pytest.fixture
def other() -> str:
    return f"prompter{next(_numbers)}@example.com"


def prompts_of(server: ServerProcess, account: int, user: int) -> list[SavedPrompt]:
    return server.read(lambda c: saved_prompts.of_member(c, account, user))


def save(member: Visitor, **changed: str) -> int:
    member.open("/studio/prompts")
    reply = member.submit("/studio/prompts", **FIELDS | changed)
    assert "prompt=" in reply.url, reply.text
    return int(reply.url.partition("prompt=")[2])


def test_a_prompt_is_saved_used_edited_and_deleted(server: ServerProcess, member: Visitor, email: str) -> None:
    number = save(member)
    page = member.page.text
    assert "The prompt is saved." in page
    assert ">Say hello</textarea>" in page
    assert "Be &lt;b&gt;kind&lt;/b&gt;.</textarea>" in page
    for name, value in (("temperature", "0.3"), ("limit", "77"), ("seed", "5")):
        assert f'id="{name}" name="{name}"' in page
        assert f'value="{value}"' in page
    path = f"/studio/prompts/{number}"
    assert "Greeting" in member.open("/studio/prompts").text
    member.open(path)
    member.submit(path, prompt_name="Farewell", message="Say goodbye", model="fake-chat", developer="", seed="")
    assert member.page.url.endswith("/en/studio/prompts")
    account = number_of(server, email)
    (kept,) = prompts_of(server, account, account)
    assert (kept.name, kept.message, kept.instructions) == ("Farewell", "Say goodbye", "")
    assert kept.settings == {"temperature": "0.3", "limit": "77"}
    member.submit(f"{path}/delete")
    assert prompts_of(server, account, account) == []
    assert member.open(path).status_code == 404
    assert "No saved prompts yet" in member.open("/studio/prompts").text


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("prompt_name", " ", "Give it a name."),
        ("prompt_name", "n" * (MAX_NAME_LENGTH + 1), "at most 80 characters"),
        ("message", "m" * (MAX_TEXT_LENGTH + 1), "at most 8000 characters"),
        ("developer", "d" * (MAX_TEXT_LENGTH + 1), "at most 8000 characters"),
    ],
)
def test_a_wrong_field_is_explained_and_nothing_is_lost(member: Visitor, field: str, value: str, words: str) -> None:
    member.open("/studio/prompts")
    reply = member.submit("/studio/prompts", **FIELDS | {field: value})
    assert reply.status_code == 422
    assert words in reply.text
    if field != "message":
        assert ">Say hello</textarea>" in reply.text


def test_the_number_of_prompts_is_bounded(server: ServerProcess, member: Visitor, email: str) -> None:
    account = number_of(server, email)
    for number in range(MAX_PROMPTS):
        one = SavedPrompt(number + account * 1000, f"n{number}", "m", "", "text", {}, number)
        assert server.write(lambda c, one=one: saved_prompts.insert(c, account, account, one, MAX_PROMPTS))
    member.open("/studio/prompts")
    reply = member.submit("/studio/prompts", **FIELDS)
    assert reply.status_code == 422
    assert f"You have {MAX_PROMPTS} saved prompts" in reply.text
    assert len(prompts_of(server, account, account)) == MAX_PROMPTS
    assert len(reply.content) < 60_000


def test_only_the_member_who_saved_a_prompt_sees_it(
    server: ServerProcess, member: Visitor, email: str, other: str
) -> None:
    account = number_of(server, email)
    colleague = new_member(server, account, other, "developer")
    number = save(member)
    for stranger in (colleague, new_user(server, "stranger-" + other)):
        assert "Greeting" not in stranger.open("/studio/prompts").text
        assert stranger.open(f"/studio/prompts/{number}").status_code == 404
        assert "Say hello" not in stranger.open(f"/studio?prompt={number}").text
        stranger.open("/studio/prompts")
        token = stranger.fields("/studio/prompts")["csrf"]
        for path in (f"/studio/prompts/{number}", f"/studio/prompts/{number}/delete"):
            assert stranger.post(stranger.url(path), data=FIELDS | {"csrf": token}, timeout=20).status_code == 404
    assert [one.name for one in prompts_of(server, account, account)] == ["Greeting"]
    for wrong in ("x", "-1", "9" * 30, "0"):
        assert member.open(f"/studio/prompts/{wrong}").status_code == 404
        assert member.open(f"/studio?prompt={wrong}").status_code == 200


def test_prompts_are_exported_and_leave_with_their_member(
    server: ServerProcess, member: Visitor, account: int, other: str
) -> None:
    colleague = new_member(server, account, other, "developer")
    save(colleague, prompt_name="Mine")
    user = number_of(server, other)
    exported = json.loads(server.command("account", "export", other).stdout)
    assert [row["name"] for row in exported["saved_prompts"]] == ["Mine"]
    member.open("/team")
    member.submit("/team/remove", user=str(user))
    assert prompts_of(server, account, user) == []


def test_prompts_are_erased_with_their_user(server: ServerProcess, member: Visitor, account: int) -> None:
    save(member)
    member.open("/account")
    member.submit("/account/leave", password_leave=PASSWORD)
    assert prompts_of(server, account, account) == []
    assert server.read(lambda c: members.members_of(c, account)) == []


@pytest.fixture
def account(server: ServerProcess, email: str, member: Visitor) -> int:
    return number_of(server, email)
