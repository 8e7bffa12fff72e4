"""Settings choose the providers that sign users in, and someone can always sign in."""

from __future__ import annotations

from typing import Any, cast

import pytest

from minitoolai.accounts.external.registry import build_sign_ins
from minitoolai.core.errors import SettingsError
from minitoolai.settings import load_settings
from tests.support.books import FixedClock


def sign_ins(**settings: Any) -> list[str]:
    return list(build_sign_ins(load_settings(**settings), cast(Any, None), cast(Any, FixedClock())))


def test_a_provider_needs_its_settings() -> None:
    assert sign_ins() == []
    assert sign_ins(github_client_id="gh") == ["github"]
    assert sign_ins(oidc_issuer="https://id.example", oidc_client_id="x", github_client_id="gh") == ["oidc", "github"]
    with pytest.raises(SettingsError, match="MINITOOLAI_OIDC_CLIENT_ID"):
        sign_ins(oidc_issuer="https://id.example")


def test_without_passwords_there_must_be_a_provider() -> None:
    with pytest.raises(SettingsError, match="nobody could sign in"):
        sign_ins(password_signin=False)
    assert sign_ins(password_signin=False, github_client_id="gh") == ["github"]
