"""Settings choose the payment providers; one that cannot be used stops the start, with the reason."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import pytest

from minitoolai.billing.providers.registry import build_providers
from minitoolai.core.errors import SettingsError
from minitoolai.settings import load_settings

PLUGIN = """
class Half:
    name = "half"

def build(settings, http):
    return Half()

def broken(settings, http):
    raise RuntimeError("no licence")
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two providers of other packages: one that lacks most of what a provider has, and one that does not load."""
    (tmp_path / "payment_plugin_for_tests.py").write_text(PLUGIN)
    info = tmp_path / "payment_plugin_for_tests-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: payment-plugin-for-tests\nVersion: 1.0\n")
    entries = "half = payment_plugin_for_tests:build\nbroken = payment_plugin_for_tests:broken\n"
    (info / "entry_points.txt").write_text(f"[minitoolai.payments.providers]\n{entries}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "payment_plugin_for_tests", raising=False)


def providers(names: str) -> dict[str, Any]:
    return cast(dict[str, Any], build_providers(load_settings(payment_providers=names), cast(Any, None)))


def test_without_settings_there_is_no_provider() -> None:
    assert providers("") == {}
    assert providers(" , ") == {}


def test_an_unknown_provider_is_named_with_the_installed_ones(installed: None) -> None:
    with pytest.raises(SettingsError, match=r"no provider 'paypal'; available: half, broken"):
        providers("paypal")


def test_a_provider_that_does_not_load_is_named_with_its_error(installed: None) -> None:
    with pytest.raises(SettingsError, match=r"the provider broken did not load: RuntimeError\('no licence'\)"):
        providers("broken")


def test_what_a_provider_lacks_is_listed(installed: None) -> None:
    with pytest.raises(SettingsError, match=r"the provider half lacks .*,"):
        providers("half")
