"""Mark images as generated: the code of the watermark, which engines embed, and the signed manifest."""

from __future__ import annotations

import logging

from minitoolai.core.catalog.shop import UNNAMED
from minitoolai.core.clock import generation_name, random_bytes
from minitoolai.core.marks import MarkCodec
from minitoolai.core.signing import SecretKeys
from minitoolai.images.provenance.certificates import load_signer, temporary_signer
from minitoolai.images.provenance.manifest import ManifestSigner, Provenance, add_manifest
from minitoolai.paths import existing_secret_keys
from minitoolai.settings import Settings

log = logging.getLogger(__name__)


class ImageMarks:
    """Marks the images of one process."""

    def __init__(self, codec: MarkCodec, signer: ManifestSigner) -> None:
        self.codec = codec
        self._signer = signer

    def sign(
        self, image: bytes, job_id: int, created_ms: int, model: str, generator: tuple[str, ...] = UNNAMED.generator
    ) -> bytes:
        """Return the image with a signed manifest. `generator`: the shop's name, or this program's and its version."""
        provenance = Provenance(model, generation_name(job_id), created_ms, generator)
        return add_manifest(image, provenance, self._signer, _uuid4())


def _uuid4() -> str:
    """Return a random UUID (RFC 9562, version 4)."""
    digits = random_bytes(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def marks_of_a_command(settings: Settings) -> ImageMarks | None:
    """Return the marks of images that a command draws, or None if marking is off.

    They are those of the installation. Where there is none, the mark and its certificate are made for this command, so
    the image says that a machine made it, but not which installation.
    """
    secret_key = existing_secret_keys(settings)
    if not settings.marks or secret_key is not None:
        return build_marks(settings, secret_key or SecretKeys(random_bytes(32)))
    return ImageMarks(MarkCodec(SecretKeys(random_bytes(32))), temporary_signer())


def build_marks(settings: Settings, secret_key: SecretKeys) -> ImageMarks | None:
    """Return the marks of images, or None if marking is off. Raise SettingsError if the certificate is unfit."""
    if not settings.marks:
        log.warning(
            "marking is off (MINITOOLAI_MARKS=off): images and speech carry no machine-readable mark, which Article 50 "
            "of the EU AI Act requires of providers in the EU"
        )
        return None
    return ImageMarks(MarkCodec(secret_key), load_signer(settings))
