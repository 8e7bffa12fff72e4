"""Links to pictures: signed, expiring, and the same whoever asks. A link is a capability; it carries no key."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from minitoolai.core.clock import Clock
from minitoolai.core.errors import Gone, NotFound, SettingsError
from minitoolai.core.signing_signing import Signer

PATH = "/api/texttoimage/pictures/"
_PURPOSE = "picture"


class PublicAddress:
    """How clients reach this server: as the operator says, else where it listens. Never what a request claims."""

    def __init__(self, public_url: str, host: str, port: int) -> None:
        """SettingsError where `public_url` is no address to put a path behind."""
        parts = urlsplit(public_url)
        if public_url and (parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment):
            raise SettingsError(f"MINITOOLAI_PUBLIC_URL={public_url!r} is wrong: write it like https://api.example.com")
        self._public_url = public_url.rstrip("/")
        # Listening everywhere is no place to call; on this machine, loopback is.
        self._host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        self._port = port

    def listening_on(self, port: int) -> None:
        """The port is known now, should it have been 0."""
        self._port = port

    def __call__(self) -> str:
        """The address, without a slash at its end."""
        if self._public_url:
            return self._public_url
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"


class Links:
    """Makes links and reads them back. `base_url` is asked each time: a port may be known only after the start."""

    def __init__(self, signer: Signer, clock: Clock, base_url: Callable[[], str], *, lifetime_s: int) -> None:
        self._signer = signer
        self._clock = clock
        self._base_url = base_url
        self._lifetime_s = lifetime_s

    def link(self, job_id: int) -> str:
        """The address of a job's picture, good from now for the lifetime of links."""
        expires_s = self._clock.now_ms() // 1000 + self._lifetime_s
        signature = self._signer.sign(_PURPOSE, f"{job_id}:{expires_s}")
        return f"{self._base_url()}{PATH}{job_id}.png?expires={expires_s}&signature={signature}"

    def check(self, name: str, expires: str, signature: str) -> tuple[int, int]:
        """The job behind `<job>.png`, and the seconds for which the link is still good.

        NotFound, in the same words, for whatever this server has not signed; Gone for what it has, too long ago.
        """
        job = name.removesuffix(".png")
        is_ours = (
            name.endswith(".png")
            and _is_number(job)
            and _is_number(expires)
            and self._signer.is_right(_PURPOSE, f"{job}:{expires}", signature)
        )
        if not is_ours:
            raise NotFound("there is no picture here: the link is not whole, or not one of this server's", param="url")
        left_s = int(expires) - self._clock.now_ms() // 1000
        if left_s <= 0:
            raise Gone(
                "this link has expired; ask for the job again, and its answer has a new one", code="link_expired"
            )
        return int(job), left_s


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 16
