"""Test that names which people chose do not turn or hide what stands around them."""

from __future__ import annotations

import re

import pytest

from minitoolai.portal.names import is_visible, isolate, isolate_text
from tests.support.ask import post
from tests.support.browse import Visitor
from tests.support.server import Account, ServerProcess

#: A right-to-left override, a name in Hebrew, and one with a zero-width space.
NAMES = ("abc\u202ecba", "מפתח", "a\u200bb")


def test_an_isolated_name_is_escaped() -> None:
    assert isolate("<b>&") == "<bdi>&lt;b&gt;&amp;</bdi>"
    assert isolate_text("laptop") == "laptop"
    assert isolate_text("a\u202e") == "\u2068a\u202e\u2069"


@pytest.mark.parametrize("name", ["\u200b", "\u202e\u200b", "\u2060", "\u00ad", " "])
def test_a_name_without_a_visible_character_is_refused(member: Visitor, name: str) -> None:
    assert not is_visible(name)
    member.open("/keys")
    assert member.submit("/keys", name=name).status_code == 422
    assert "Give the key a name" in member.page.text


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_key_is_isolated_on_every_page(
    member: Visitor, server: ServerProcess, email: str, name: str
) -> None:
    server.command("credit", "grant", email, "1.00")
    member.open("/keys")
    member.submit("/keys", name=name)
    made = re.search(r'id="new-key">(sk-mt-(\w+)-\S+)</code>', member.page.text)
    assert made
    assert post(Account(server, 0, email, made[1]), model="fake-chat", stream=False).status_code == 200
    for path in ("/keys", f"/keys/{made[2]}", "/docs", "/usage", "/usage/requests"):
        page = member.open(path).text
        bare = page.replace(f"<bdi>{name}</bdi>", "").replace(f"\u2068{name}\u2069", "").replace(f'value="{name}"', "")
        assert name in page, path
        assert name not in bare, path
    member.open(f"/keys/{made[2]}")
    member.submit(f"/keys/{made[2]}", name=name)
    assert f"\u2068{name}\u2069" in member.page.text
