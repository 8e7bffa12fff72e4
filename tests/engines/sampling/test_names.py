"""A scheduler is found by the name that any program gives it."""

from __future__ import annotations

import pytest

from minitoolai.engines.sampling import SCHEDULERS
from minitoolai.engines.sampling.names import nearest_schedulers, scheduler_named


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_has_its_own_name_in_any_case_and_with_any_separators(name: str) -> None:
    assert scheduler_named(name) == name
    assert scheduler_named(name.upper()) == name
    assert scheduler_named(name.replace(" ", "_").lower()) == name
    assert scheduler_named(name.replace(" ", "-").replace("++", "pp")) == name


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("k_euler_ancestral", "Euler a"),
        ("EulerDiscreteScheduler", "Euler"),
        ("dpmpp_2m", "DPM++ 2M"),
        ("dpmpp_2m_karras", "DPM++ 2M Karras"),
        ("DPMSolverSDEScheduler", "DPM++ SDE"),
    ],
)
def test_names_of_other_programs_are_known(name: str, meant: str) -> None:
    assert scheduler_named(name) == meant


@pytest.mark.parametrize("name", ["", "Eular", "x" * 100_000])
def test_another_name_is_unknown(name: str) -> None:
    assert scheduler_named(name) is None


def test_the_nearest_names_are_suggested_and_else_all() -> None:
    assert nearest_schedulers("Eular").startswith("did you mean Euler")
    assert nearest_schedulers("Eular").count(" or ") <= 2
    everything = nearest_schedulers("qqqqqqqq")
    assert all(name in everything for name in SCHEDULERS)
