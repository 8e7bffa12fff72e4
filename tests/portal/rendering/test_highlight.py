"""Highlighting marks keywords and strings, and changes nothing else of a sample."""

from __future__ import annotations

import re

import pytest

from minitoolai.portal.rendering.highlight import EXAMPLE_ORIGIN, FOLDER, example, highlight, tabs_of


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_highlighting_keeps_the_text_of_a_sample(path: object) -> None:
    name = getattr(path, "name", "")
    text = (FOLDER / name).read_text().rstrip("\n")
    plain = re.sub("</?[bi]>", "", example(name, EXAMPLE_ORIGIN))
    assert plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == text


def test_a_keyword_within_a_string_is_not_marked() -> None:
    assert highlight('print("for <you>")', "python") == '<b>print</b>(<i>"for &lt;you&gt;"</i>)'
    assert highlight("information = x.for_all", "python") == "information = x.for_all"


def test_a_sample_names_the_address_of_the_site() -> None:
    sample = example("home.curl", "https://api.example.org")
    assert "https://api.example.org" in sample
    assert EXAMPLE_ORIGIN not in sample


def test_an_address_is_escaped_in_a_sample() -> None:
    assert "<script>" not in example("home.curl", "https://<script>")


def test_a_topic_has_tabs_in_a_fixed_order() -> None:
    assert [*tabs_of("chat")][:2] == ["python", "php"]
    assert tabs_of("no-such-topic") == {}
