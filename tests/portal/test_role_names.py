"""Every role and every right has a name in every language."""

from __future__ import annotations

import pytest

from minitoolai.core.roles import ACTIONS, ROLES
from minitoolai.portal.i18n import LANGUAGES, translations
from minitoolai.portal.role_names import ACTION_NAMES, ROLE_NAMES


def test_every_role_and_every_right_has_a_name() -> None:
    assert set(ROLE_NAMES) == set(ROLES)
    assert set(ACTIONS) == set(ACTION_NAMES)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_two_roles_or_rights_have_the_same_name(lang: str) -> None:
    translate = translations(lang).gettext
    for names in (ROLE_NAMES, ACTION_NAMES):
        assert len({translate(name) for name in names.values()}) == len(names)
