"""An identity signs in one user."""

from __future__ import annotations

from minitoolai.storage.tables import identities
from minitoolai.storage.tables.identities import IdentityRow
from tests.support.books import TemporaryBooks


def test_an_identity_belongs_to_the_first_user_who_connected_it(books: TemporaryBooks) -> None:
    ann, bob = books.account(0), books.account(0)
    first = IdentityRow("https://id.example", "7", ann, "ann@example.com", 5)
    assert identities.insert(books.connection, first)
    assert not identities.insert(books.connection, first._replace(user_id=bob))
    # The same subject of another issuer is another identity.
    assert identities.insert(books.connection, first._replace(issuer="https://other.example", user_id=bob))
    assert identities.find(books.connection, "https://id.example", "7") == ann
    assert identities.find(books.connection, "https://other.example", "7") == bob
    assert identities.find(books.connection, "https://id.example", "8") is None


def test_identities_are_listed_oldest_first_and_deleted_by_their_user_alone(books: TemporaryBooks) -> None:
    ann, bob = books.account(0), books.account(0)
    rows = [IdentityRow("i", str(number), ann, "ann@example.com", 9 - number) for number in range(3)]
    for row in rows:
        identities.insert(books.connection, row)
    assert identities.of_user(books.connection, ann) == rows[::-1]
    identities.delete(books.connection, bob, "i", "1")
    assert len(identities.of_user(books.connection, ann)) == 3
    identities.delete(books.connection, ann, "i", "1")
    assert [row.subject for row in identities.of_user(books.connection, ann)] == ["2", "0"]
    identities.delete_all(books.connection, bob)
    identities.delete_all(books.connection, ann)
    assert identities.of_user(books.connection, ann) == []
