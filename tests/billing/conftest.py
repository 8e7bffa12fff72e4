"""Share the portal's server and visitors with the tests of card payments."""

from tests.portal.conftest import email, member, portal_server, stripe, visitor

__all__ = ["email", "member", "portal_server", "stripe", "visitor"]
