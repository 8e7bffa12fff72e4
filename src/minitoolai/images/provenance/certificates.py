"""The certificate that signs manifests: the operator's, or a self-made one that says so.

The self-made certificate is created once, in the data folder. Readers of manifests show it as not trusted, because no
authority has checked who the operator is.
"""

from __future__ import annotations

import fcntl
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from minitoolai.core.catalog.shop import PROGRAM
from minitoolai.core.clock import SystemClock
from minitoolai.core.errors import SettingsError
from minitoolai.images.provenance.manifest import ManifestSigner
from minitoolai.settings import Settings

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey as EcKey

CERTIFICATE_FILE, KEY_FILE = CERTIFICATE_FILES = ("marks-certificate.pem", "marks-key.pem")
SELF_MADE = "Self-made by this installation, verified by nobody"
_SELF_MADE_YEARS = 20


def load_signer(settings: Settings) -> ManifestSigner:
    """Return the operator's certificate chain and key, or the self-made ones. Raise SettingsError if they are unfit."""
    if bool(settings.marks_certificate) != bool(settings.marks_key):
        raise SettingsError(
            "MINITOOLAI_MARKS_CERTIFICATE and MINITOOLAI_MARKS_KEY belong together: set both or neither"
        )
    if settings.marks_certificate:
        return _read(Path(settings.marks_certificate), Path(settings.marks_key))
    certificate, key = settings.data_dir / CERTIFICATE_FILE, settings.data_dir / KEY_FILE
    try:
        _create_once(certificate, key)
    except OSError as error:
        raise SettingsError(
            f"Cannot create {certificate}: {error.strerror}. Make the data folder writable, or set "
            "MINITOOLAI_MARKS_CERTIFICATE and MINITOOLAI_MARKS_KEY."
        ) from error
    return _read(certificate, key)


def temporary_signer() -> ManifestSigner:
    """Return a self-made certificate and key that are stored nowhere."""
    key, chain = _make()
    return _signer(chain, key)


def _signer(chain: bytes, key: bytes) -> ManifestSigner:
    """Return the signer of a chain and a key in PEM. Raise ValueError or TypeError if they are neither."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    certificates = x509.load_pem_x509_certificates(chain)
    private = serialization.load_pem_private_key(key, None)
    return ManifestSigner([each.public_bytes(serialization.Encoding.DER) for each in certificates], private)


def _now() -> datetime:
    return datetime.fromtimestamp(SystemClock().now_ms() / 1000, UTC)


def certificate_digest(settings: Settings) -> str:
    """Return the SHA-256 of the certificate that signs images here, or "" if there is none. Creates none."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    path = Path(settings.marks_certificate) if settings.marks_certificate else settings.data_dir / CERTIFICATE_FILE
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).fingerprint(hashes.SHA256()).hex()
    except (OSError, ValueError):
        return ""


def names_program(settings: Settings) -> bool:
    """Return True if the certificate that signs images is a self-made one that names this program."""
    from cryptography import x509

    if settings.marks_certificate:
        return False
    try:
        certificate = x509.load_pem_x509_certificate((settings.data_dir / CERTIFICATE_FILE).read_bytes())
    except (OSError, ValueError):
        return False
    return PROGRAM in certificate.subject.rfc4514_string()


def _read(certificate: Path, key: Path) -> ManifestSigner:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        chain = x509.load_pem_x509_certificates(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), None)
    except OSError as error:
        raise SettingsError(f"MINITOOLAI_MARKS_CERTIFICATE: cannot read {error.filename}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"MINITOOLAI_MARKS_CERTIFICATE: {certificate} and {key} must be a PEM certificate chain and its key "
            "without a password"
        ) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != "secp256r1":
        raise SettingsError(f"MINITOOLAI_MARKS_KEY: {key} must be an elliptic-curve key on P-256 (ES256)")
    if private.public_key() != chain[0].public_key():
        raise SettingsError(f"MINITOOLAI_MARKS_KEY: {key} is not the key of the first certificate in {certificate}")
    if chain[0].not_valid_after_utc < _now():
        raise SettingsError(f"MINITOOLAI_MARKS_CERTIFICATE: {certificate} has expired; renew it")
    return ManifestSigner([each.public_bytes(serialization.Encoding.DER) for each in chain], private)


def _create_once(certificate: Path, key: Path) -> None:
    """Create both files if they are missing. Processes that start together get the same ones."""
    if certificate.exists() and key.exists():
        return
    folder = os.open(certificate.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if not (certificate.exists() and key.exists()):
            for path, data in zip((key, certificate), _make(), strict=True):
                draft = path.with_name(path.name + ".draft")
                draft.unlink(missing_ok=True)
                with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(path)
            os.fsync(folder)
    finally:
        os.close(folder)


def _make() -> tuple[bytes, bytes]:
    """Return a new key and a chain of two certificates. C2PA refuses a signer that signed its own certificate."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _certificate("root", root_key, None, root_key)
    leaf = _certificate("images and speech", key, root, root_key)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, leaf.public_bytes(pem) + root.public_bytes(pem)


def _certificate(name: str, key: EcKey, issuer: x509.Certificate | None, issuer_key: EcKey) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, SELF_MADE),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Self-made: {name}"),
        ]
    )
    now, is_root = _now(), issuer is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=365 * _SELF_MADE_YEARS))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=0 if is_root else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_root,
                key_cert_sign=is_root,
                crl_sign=is_root,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if not is_root:
        usages = [ExtendedKeyUsageOID.EMAIL_PROTECTION]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
