"""Register passkeys (WebAuthn), and verify what browsers sign with them.

A passkey stands for password and second factor together: its authenticator is at hand and has verified the user. A
challenge is stored, belongs to one browser, and is deleted by the first answer. Origin and RP ID come from the
configured address of the site, never from a request.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import msgspec

from minitoolai.accounts.factors.second_factors import store_recovery_codes
from minitoolai.accounts.factors.totp import new_recovery_codes
from minitoolai.accounts.users import digest
from minitoolai.core.clock import Clock, random_bytes
from minitoolai.core.models import User
from minitoolai.core.threads import CIPHERS
from minitoolai.storage.database import Connection, Database
from minitoolai.storage.tables import passkeys, second_factors, users
from minitoolai.storage.tables.passkeys import Passkey, PasskeyChallenge, Purpose
from minitoolai.storage.writer import Writer

if TYPE_CHECKING:
    from webauthn.helpers.structs import PublicKeyCredentialDescriptor

log = logging.getLogger(__name__)
CHALLENGE_BYTES = 32
CHALLENGE_MS = 300 * 1000
#: More passkeys of one user are refused.
MAX_PASSKEYS = 20
MAX_NAME_LENGTH = 60
#: A refused signature: it is wrong, or its counter shows that another device has the same key.
Refusal = Literal["refused", "cloned"]


class RelyingParty(msgspec.Struct, frozen=True):
    """What passkeys belong to: the domain, and the origin that browsers name."""

    id: str
    origin: str


class Added(msgspec.Struct, frozen=True):
    """A new passkey, and the recovery codes if it is the first second factor of its user."""

    passkey: Passkey
    codes: list[str]


class PasskeyProof(msgspec.Struct, frozen=True):
    """A verified signature that is not recorded yet."""

    passkey: Passkey
    sign_count: int
    is_synced: bool
    now_ms: int

    @property
    def user_id(self) -> int:
        return self.passkey.user_id

    @property
    def is_recovery_code(self) -> bool:
        return False

    def consume(self, connection: Connection) -> bool:
        """Record the use inside the caller's transaction. Return False if the passkey was removed or used meanwhile."""
        return passkeys.record_use(connection, self.passkey, self.sign_count, self.is_synced, self.now_ms)


def relying_party(address: str) -> RelyingParty | None:
    """Return the relying party of a site's address. None where browsers offer no passkeys.

    They require a domain name (not an IP address) and HTTPS, except on `localhost`.
    """
    parts = urlsplit(address)
    host = parts.hostname or ""
    try:
        ip_address(host)
    except ValueError:
        is_secure = parts.scheme == "https" or host == "localhost" or host.endswith(".localhost")
        default = {"https": 443, "http": 80}.get(parts.scheme)
        port = f":{parts.port}" if parts.port not in (None, default) else ""
        return RelyingParty(host, f"{parts.scheme}://{host}{port}") if host and is_secure else None
    return None


class Passkeys:
    """Register, list, verify and remove passkeys."""

    def __init__(self, database: Database, writer: Writer, clock: Clock, address: Callable[[], str]) -> None:
        """`address` returns the configured address of the site."""
        self._database = database
        self._writer = writer
        self._clock = clock
        self._address = address

    @property
    def relying_party(self) -> RelyingParty | None:
        """What new passkeys belong to. None: this site cannot have any."""
        return relying_party(self._address())

    async def of_user(self, user: User) -> list[Passkey]:
        """Return the passkeys of a user, oldest first."""
        return await self._database.read_async(passkeys.of_user, user.user_id)

    async def can_answer(self, user_id: int) -> bool:
        """Return True if this user has a passkey that is not blocked, and this site can ask for it."""
        if self.relying_party is None:
            return False
        known = await self._database.read_async(passkeys.of_user, user_id)
        return any(one.blocked_ms is None for one in known)

    # ── registration ──────────────────────────────────────────────────────────────────────────────────────

    async def begin_registration(self, user: User, browser: str, shop_name: str) -> str | None:
        """Return the options for `navigator.credentials.create`, as JSON. None if the user has too many passkeys."""
        party, known = self._party(), await self.of_user(user)
        if len(known) >= MAX_PASSKEYS:
            return None
        challenge = await self._new_challenge("create", browser, user.user_id)
        return await CIPHERS.run(_creation_options, party, shop_name, user, challenge, known)

    async def finish_registration(
        self, user: User, browser: str, name: str, credential: str, session: str
    ) -> Added | None:
        """Store the passkey that this browser made, and end all other sessions. None if it cannot be accepted."""
        party, challenge = self._party(), await self._take(credential, "create", browser, user.user_id)
        if challenge is None:
            return None
        made = await CIPHERS.run(_verify_creation, party, credential, challenge)
        if made is None:
            return None
        now_ms, codes = self._clock.now_ms(), new_recovery_codes()
        passkey = made._replace(user_id=user.user_id, name=_name(name), created_ms=now_ms)

        def change(connection: Connection) -> Added | None:
            if len(passkeys.of_user(connection, user.user_id)) >= MAX_PASSKEYS:
                return None
            if not passkeys.insert(connection, passkey):
                return None
            users.end_sessions(connection, user.user_id, but=digest(session))
            if second_factors.count_recovery_codes(connection, user.user_id):
                return Added(passkey, [])
            store_recovery_codes(connection, user.user_id, codes)
            return Added(passkey, codes)

        added: Added | None = await self._writer.run(change)
        return added

    # ── signatures ────────────────────────────────────────────────────────────────────────────────────────

    async def begin(self, purpose: Purpose, browser: str, user_id: int | None) -> str:
        """Return the options for `navigator.credentials.get`, as JSON. With a user, only their passkeys answer."""
        party = self._party()
        known = [] if user_id is None else await self._database.read_async(passkeys.of_user, user_id)
        challenge = await self._new_challenge(purpose, browser, user_id)
        return await CIPHERS.run(_request_options, party, challenge, known)

    async def verify(
        self, purpose: Purpose, browser: str, credential: str, user_id: int | None
    ) -> PasskeyProof | tuple[Refusal, int]:
        """Verify the answer of a browser to a challenge. The caller consumes the proof in its transaction.

        Returns a refusal with the number of the passkey's user (0: unknown) otherwise.
        """
        party, answer = self._party(), _read_json(credential)
        challenge = await self._take(credential, purpose, browser, user_id)
        credential_id = _bytes_of(answer.get("rawId"))
        passkey = await self._database.read_async(passkeys.find, credential_id) if credential_id else None
        if challenge is None or passkey is None or passkey.blocked_ms is not None:
            return "refused", 0
        if user_id not in (None, passkey.user_id) or challenge.user_id not in (None, passkey.user_id):
            return "refused", 0
        handle = _bytes_of(_part(answer, "response").get("userHandle"))
        if handle and handle != user_handle(passkey.user_id):
            return "refused", 0
        verified = await CIPHERS.run(_verify_signature, party, credential, challenge, passkey)
        if verified is None:
            return "refused", 0
        sign_count, is_synced = verified
        # A counter that does not grow was signed by a copy of the authenticator, or before its last use.
        if (sign_count or passkey.sign_count) and sign_count <= passkey.sign_count:
            log.warning("passkey of user %d is blocked: its counter went backwards", passkey.user_id)
            now_ms = self._clock.now_ms()
            await self._writer.run(lambda connection: passkeys.block(connection, passkey.credential_id, now_ms))
            return "cloned", passkey.user_id
        return PasskeyProof(passkey, sign_count, is_synced, self._clock.now_ms())

    # ── changes ───────────────────────────────────────────────────────────────────────────────────────────

    async def rename(self, user: User, credential_id: bytes, name: str) -> bool:
        """Rename a passkey of this user. Return False if there is none."""
        return bool(await self._writer.run(lambda c: passkeys.rename(c, user.user_id, credential_id, _name(name))))

    def _party(self) -> RelyingParty:
        party = self.relying_party
        assert party is not None, "the pages offer no passkeys without a domain"
        return party

    async def _new_challenge(self, purpose: Purpose, browser: str, user_id: int | None) -> bytes:
        challenge = PasskeyChallenge(
            random_bytes(CHALLENGE_BYTES), purpose, digest(browser), user_id, self._clock.now_ms() + CHALLENGE_MS
        )
        await self._writer.run(lambda connection: passkeys.insert_challenge(connection, challenge))
        return challenge.challenge

    async def _take(
        self, credential: str, purpose: Purpose, browser: str, user_id: int | None
    ) -> PasskeyChallenge | None:
        """Delete the challenge that an answer names, and return it if this browser may answer it for this user."""
        client_data = _read_json(_bytes_of(_part(_read_json(credential), "response").get("clientDataJSON")))
        challenge, now_ms = _bytes_of(client_data.get("challenge")), self._clock.now_ms()
        if not challenge:
            return None
        taken: PasskeyChallenge | None = await self._writer.run(
            lambda connection: passkeys.take_challenge(connection, challenge, purpose, now_ms)
        )
        is_own = taken is not None and taken.browser_hash == digest(browser) and taken.user_id == user_id
        return taken if is_own else None


def user_handle(user_id: int) -> bytes:
    """Return what an authenticator stores for a user: the number, which says nothing about the person."""
    return user_id.to_bytes(8, "big")


def _name(text: str) -> str:
    return "".join(c for c in text if c.isprintable()).strip()[:MAX_NAME_LENGTH] or "Passkey"


# ── the library `webauthn`: imported in the thread that needs it, which takes 0.2 s once ──────────────────


def _creation_options(party: RelyingParty, shop_name: str, user: User, challenge: bytes, known: list[Passkey]) -> str:
    from webauthn import generate_registration_options, options_to_json
    from webauthn.helpers.structs import (
        AuthenticatorSelectionCriteria,
        ResidentKeyRequirement,
        UserVerificationRequirement,
    )

    options = generate_registration_options(
        rp_id=party.id, rp_name=shop_name, user_id=user_handle(user.user_id), user_name=user.email,
        challenge=challenge, timeout=CHALLENGE_MS,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
        ),
        exclude_credentials=_descriptors(known),
    )  # fmt: skip
    return options_to_json(options)


def _request_options(party: RelyingParty, challenge: bytes, known: list[Passkey]) -> str:
    from webauthn import generate_authentication_options, options_to_json
    from webauthn.helpers.structs import UserVerificationRequirement

    options = generate_authentication_options(
        rp_id=party.id, challenge=challenge, timeout=CHALLENGE_MS, allow_credentials=_descriptors(known),
        user_verification=UserVerificationRequirement.REQUIRED,
    )  # fmt: skip
    return options_to_json(options)


def _descriptors(known: list[Passkey]) -> list[PublicKeyCredentialDescriptor]:
    from webauthn.helpers.structs import AuthenticatorTransport, PublicKeyCredentialDescriptor

    names = {one.value: one for one in AuthenticatorTransport}
    return [
        PublicKeyCredentialDescriptor(
            id=one.credential_id, transports=[names[name] for name in one.transports.split() if name in names]
        )
        for one in known
    ]


def _verify_creation(party: RelyingParty, credential: str, challenge: PasskeyChallenge) -> Passkey | None:
    from webauthn import verify_registration_response
    from webauthn.helpers.exceptions import WebAuthnException

    try:
        made = verify_registration_response(
            credential=credential, expected_challenge=challenge.challenge, expected_rp_id=party.id,
            expected_origin=party.origin, require_user_verification=True,
        )  # fmt: skip
    except (WebAuthnException, ValueError) as error:
        log.warning("a new passkey is refused: %s", error)
        return None
    transports = _part(_read_json(credential), "response").get("transports")
    named = [name for name in transports if isinstance(name, str)] if isinstance(transports, list) else []
    return Passkey(
        made.credential_id, 0, made.credential_public_key, made.sign_count, "", " ".join(named)[:100],
        made.credential_backed_up, 0,
    )  # fmt: skip


def _verify_signature(
    party: RelyingParty, credential: str, challenge: PasskeyChallenge, passkey: Passkey
) -> tuple[int, bool] | None:
    """Return the counter, and whether the passkey is synced. None if the signature is not valid."""
    from webauthn import verify_authentication_response
    from webauthn.helpers.exceptions import WebAuthnException

    try:
        verified = verify_authentication_response(
            credential=credential, expected_challenge=challenge.challenge, expected_rp_id=party.id,
            expected_origin=party.origin, credential_public_key=passkey.public_key,
            # The library compares counters before it verifies the signature, so the caller does it afterwards.
            credential_current_sign_count=0, require_user_verification=True,
        )  # fmt: skip
    except (WebAuthnException, ValueError) as error:
        log.warning("a signature of a passkey of user %d is refused: %s", passkey.user_id, error)
        return None
    return verified.new_sign_count, verified.credential_backed_up


def _read_json(text: str | bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _part(value: dict[str, Any], name: str) -> dict[str, Any]:
    part = value.get(name)
    return part if isinstance(part, dict) else {}


def _bytes_of(text: object) -> bytes:
    """Decode base64url without padding; b"" for anything else."""
    if not isinstance(text, str) or not text.isascii():
        return b""
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""
