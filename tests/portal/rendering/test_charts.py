"""Chart layout, and CSV that spreadsheets cannot misread."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitoolai.portal.rendering.charts import HEIGHT, Column, column_chart, escape_formula, row_chart, scale_values


@given(st.integers(0, 2**62))
def test_a_scale_has_round_values_up_to_the_highest(highest: int) -> None:
    scale = scale_values(highest)
    assert scale[0] == 0
    assert scale[-1] >= highest
    assert 2 <= len(scale) <= 6
    assert str(scale[1]).rstrip("0") in ("1", "2", "5")


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**12)), min_size=1, max_size=90))
def test_bars_stay_within_their_chart(amounts: list[tuple[int, int]]) -> None:
    data = [Column("d", (("chat", one), ("image", two))) for one, two in amounts]
    for chart in (column_chart(data, str), row_chart(data, str)):
        for bar in chart.bars:
            assert 0 <= bar.x <= bar.x + bar.width <= 721
            assert -2 <= bar.y <= bar.y + bar.height <= max(chart.height, HEIGHT) + 1


def test_the_newest_day_always_has_a_label() -> None:
    data = [Column(f"day {number}", (("chat", number),)) for number in range(90)]
    assert column_chart(data, str).labels[-1].text == "day 89"


def test_all_bars_of_a_kind_are_one_path() -> None:
    chart = column_chart([Column("a", (("chat", 1), ("image", 2))), Column("b", (("chat", 3),))], str)
    assert {kind: path.count("M") for kind, path in chart.shapes.items()} == {"chat": 2, "image": 1}


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum", "\tx", "\rx"])
def test_a_text_that_looks_like_a_formula_is_quoted(text: str) -> None:
    assert escape_formula(text) == "'" + text


@pytest.mark.parametrize(("text", "written"), [("", ""), (None, ""), ("a=b", "a=b")])
def test_other_texts_stay_as_they_are(text: str | None, written: str) -> None:
    assert escape_formula(text) == written
