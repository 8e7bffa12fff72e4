"""Manifests: what they say, that any change is noticed, and certificates that are refused."""

from __future__ import annotations

import io
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from PIL import Image

from minitoolai.core.errors import SettingsError
from minitoolai.images.provenance.certificates import CERTIFICATE_FILE, KEY_FILE, SELF_MADE, load_signer
from minitoolai.images.provenance.manifest import ManifestSigner, Provenance, add_manifest
from minitoolai.images.provenance.manifest_reader import read_manifest
from minitoolai.settings import Settings

PROVENANCE = Provenance("sketch", "gen-00000000ABC", 1_790_000_000_000)
UNIQUE = "7ddde8aa-94c1-4fa6-b3aa-2be35d5afdc8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("marks")


@pytest.fixture(scope="module")
def signer(folder: Path) -> ManifestSigner:
    return load_signer(Settings(data_dir=folder))


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 32), "red").save(file, "PNG")
    return file.getvalue()


def test_a_manifest_says_what_made_the_image_and_when(signer: ManifestSigner) -> None:
    signed = add_manifest(png(), PROVENANCE, signer, UNIQUE)
    report = read_manifest(signed)
    assert report is not None
    assert (report.state, report.model, report.generation, report.created, report.signer) == (
        "valid", "sketch", "gen-00000000ABC", "2026-09-21T14:13:20Z", SELF_MADE,
    )  # fmt: skip
    assert report.is_generated
    assert Image.open(io.BytesIO(signed)).tobytes() == Image.open(io.BytesIO(png())).tobytes()


def test_an_image_without_a_manifest_or_another_format_has_none() -> None:
    assert read_manifest(png()) is None
    assert read_manifest(b"\xff\xd8\xff") is None
    assert read_manifest(b"") is None


def test_any_changed_byte_is_noticed(signer: ManifestSigner) -> None:
    signed = add_manifest(png(), PROVENANCE, signer, UNIQUE)
    for at in range(8, len(signed), 7):
        changed = bytearray(signed)
        changed[at] ^= 0x41
        report = read_manifest(bytes(changed))
        assert report is None or report.state in ("forged", "truncated"), at


def test_a_file_cut_anywhere_is_never_valid(signer: ManifestSigner) -> None:
    signed = add_manifest(png(), PROVENANCE, signer, UNIQUE)
    for end in range(0, len(signed), 13):
        report = read_manifest(signed[:end])
        assert report is None or report.state in ("forged", "truncated"), end


def test_the_self_made_certificate_is_made_once_and_its_key_is_private(folder: Path, signer: ManifestSigner) -> None:
    assert load_signer(Settings(data_dir=folder)).chain == signer.chain
    assert stat.S_IMODE((folder / KEY_FILE).stat().st_mode) == 0o600
    subject = x509.load_pem_x509_certificate((folder / CERTIFICATE_FILE).read_bytes()).subject.rfc4514_string()
    assert "Self-made" in subject


def _own(folder: Path, *, days: int = 30, key: object = None) -> Settings:
    """Write a certificate of an operator and return settings that name it."""
    private = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Ann's Shop")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(7)
    builder = builder.not_valid_before(now - timedelta(days=90)).not_valid_after(now + timedelta(days=days))
    made = builder.public_key(private.public_key()).sign(private, hashes.SHA256())  # type: ignore[attr-defined,arg-type]
    (folder / "own.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "own-key.pem").write_bytes(
        private.private_bytes(  # type: ignore[attr-defined]
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return Settings(marks_certificate=str(folder / "own.pem"), marks_key=str(folder / "own-key.pem"))


def test_an_operators_certificate_is_named_and_an_expired_one_is_told(tmp_path: Path) -> None:
    signer = load_signer(_own(tmp_path))
    report = read_manifest(add_manifest(png(), PROVENANCE, signer, UNIQUE))
    assert report is not None
    assert (report.state, report.signer) == ("valid", "Ann's Shop")
    key = ec.generate_private_key(ec.SECP256R1())
    _own(tmp_path, days=-1, key=key)
    old = x509.load_pem_x509_certificate((tmp_path / "own.pem").read_bytes())
    expired = ManifestSigner([old.public_bytes(serialization.Encoding.DER)], key)
    report = read_manifest(add_manifest(png(), PROVENANCE, expired, UNIQUE))
    assert report is not None
    assert report.state == "expired"


def test_an_unfit_certificate_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Make the data folder writable"):
        load_signer(Settings(data_dir=tmp_path / "missing"))
    with pytest.raises(SettingsError, match="belong together"):
        load_signer(Settings(marks_certificate="x.pem"))
    with pytest.raises(SettingsError, match="cannot read"):
        load_signer(Settings(marks_certificate="x.pem", marks_key="y.pem"))
    with pytest.raises(SettingsError, match="has expired"):
        load_signer(_own(tmp_path, days=-1))
    with pytest.raises(SettingsError, match="P-256"):
        load_signer(_own(tmp_path, key=rsa.generate_private_key(65537, 2048)))
    settings = _own(tmp_path)
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "own-key.pem").write_bytes(other)
    with pytest.raises(SettingsError, match="not the key of"):
        load_signer(settings)
    (tmp_path / "own.pem").write_text("nonsense")
    with pytest.raises(SettingsError, match="must be a PEM"):
        load_signer(settings)
