"""The one table of roles and actions."""

from __future__ import annotations

from typing import get_args

from minitoolai.core.roles import ACTIONS, ALLOWED, ROLES, Action, Role, may
from minitoolai.portal.role_names import ACTION_NAMES, ROLE_NAMES

#: Each cell of the table, as a reviewer reads it.
TABLE = """
           read use keys pay team own
owner      yes  yes yes  yes yes  yes
admin      yes  yes yes  yes yes  no
developer  yes  yes no   no  no   no
billing    yes  no  no   yes no   no
viewer     yes  no  no   no  no   no
"""


def test_every_cell_of_the_table() -> None:
    header, *lines = TABLE.split("\n")[1:-1]
    written = {
        (role, action): cell == "yes"
        for role, *cells in map(str.split, lines)
        for action, cell in zip(header.split(), cells, strict=True)
    }
    assert written == {(role, action): may(role, action) for role in ROLES for action in ACTIONS}


def test_every_role_and_action_is_in_the_table_and_has_a_name() -> None:
    assert set(ALLOWED) == set(ROLES) == set(get_args(Role)) == set(ROLE_NAMES)
    assert set(ACTIONS) == set(get_args(Action)) == set(ACTION_NAMES)


def test_a_user_without_an_account_may_do_nothing() -> None:
    assert not any(may(None, action) for action in ACTIONS)
