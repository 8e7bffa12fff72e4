"""Read and validate the C2PA manifest of an image: structure, hashes, signature and certificate."""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from minitoolai.core.cbor import Tagged, decode
from minitoolai.core.clock import SystemClock
from minitoolai.images.provenance.containers import BrokenFile, FoundManifest, find_store
from minitoolai.images.provenance.manifest import CERTIFICATE_CHAIN, signed_bytes

#: "truncated" includes any damage that leaves no readable structure.
State = Literal["valid", "forged", "expired", "truncated"]
_CBOR_LABELS = ("c2pa.claim.v2", "c2pa.claim")


class ManifestReport(msgspec.Struct, frozen=True):
    """What a manifest says, and whether it can be believed. `signer` is the certificate's organization."""

    state: State
    model: str = ""
    generation: str = ""
    created: str = ""
    signer: str = ""
    generator: str = ""
    is_generated: bool = False
    #: SHA-256 of the signer's certificate.
    certificate: str = ""


def read_manifest(data: bytes) -> ManifestReport | None:
    """Return a report on the manifest of a PNG, JPEG or WebP file, or None if it has none. Other formats have none."""
    try:
        found = find_store(data)
        return None if found is None else _validate(data, found)
    except (BrokenFile, ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error):
        return ManifestReport("truncated")


def _validate(data: bytes, found: FoundManifest) -> ManifestReport:
    manifests = [box for box in _boxes(_content(found.store)) if box[0] == b"jumb"]
    _, parts = _superbox(manifests[-1][1])
    claim = next(parts[name] for name in _CBOR_LABELS if name in parts)
    claim_bytes = _superbox(claim)[1]["cbor"]
    fields = decode(claim_bytes)
    assertions = _superbox(parts["c2pa.assertions"])[1]
    signature = decode(_superbox(parts["c2pa.signature"])[1]["cbor"])
    protected, unprotected, _, signed = signature.value if isinstance(signature, Tagged) else signature
    chain = decode(protected).get(CERTIFICATE_CHAIN) or unprotected.get(CERTIFICATE_CHAIN) or unprotected["x5chain"]
    chain = [chain] if isinstance(chain, bytes) else chain
    intact = _verify(chain, protected, claim_bytes, signed) and _hashes_match(
        data, found.start, found.length, fields, assertions
    )
    return _report(fields, assertions, chain, "valid" if intact else "forged")


def _report(fields: Any, assertions: dict[str, bytes], chain: list[bytes], state: State) -> ManifestReport:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    certificate = x509.load_der_x509_certificate(chain[0])
    names = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if state == "valid" and certificate.not_valid_after_utc.timestamp() * 1000 < SystemClock().now_ms():
        state = "expired"
    created: dict[str, Any] = {}
    for name in ("c2pa.actions.v2", "c2pa.actions"):
        if name in assertions:
            actions = decode(_superbox(assertions[name])[1]["cbor"])["actions"]
            created = next((each for each in actions if each.get("action") == "c2pa.created"), created)
    parameters = created.get("parameters") or {}
    when = created.get("when", "")
    generator = fields.get("claim_generator_info") or {}
    generator = generator[0] if isinstance(generator, list) and generator else generator
    return ManifestReport(
        state,
        model=_parameter(parameters, "model")[:200],
        generation=_parameter(parameters, "generation")[:40],
        created=str(when.value if isinstance(when, Tagged) else when)[:40],
        signer=str(names[0].value)[:200] if names else "",
        generator=str(generator.get("name", "") if isinstance(generator, dict) else "")[:200],
        is_generated=str(created.get("digitalSourceType", "")).lower().endswith("trainedalgorithmicmedia"),
        certificate=hashlib.sha256(chain[0]).hexdigest(),
    )


def _parameter(parameters: dict[str, Any], name: str) -> str:
    """Return what a manifest says about the generation. Until version 0.1 the names had a prefix."""
    return str(parameters.get(name, parameters.get(f"org.minitoolai.{name}", "")))


def _hashes_match(data: bytes, start: int, length: int, fields: Any, assertions: dict[str, bytes]) -> bool:
    """Return True if every assertion is the one that the claim names, and the file is the one that was signed."""
    listed = fields.get("created_assertions") or fields["assertions"]
    named = {each["url"].rpartition("/")[2]: each["hash"] for each in listed}
    if any(hashlib.sha256(assertions[name]).digest() != digest for name, digest in named.items()):
        return False
    if "c2pa.hash.data" not in named:
        return False
    binding = decode(_superbox(assertions["c2pa.hash.data"])[1]["cbor"])
    excluded = [(each["start"], each["length"]) for each in binding["exclusions"]]
    if excluded != [(start, length)]:
        return False
    digest = hashlib.sha256(data[:start])
    digest.update(memoryview(data)[start + length :])
    return bool(digest.digest() == binding["hash"])


def _verify(chain: list[bytes], protected: bytes, claim: bytes, signature: bytes) -> bool:
    """Return True if the claim was signed with the first certificate and each was signed with the next."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    certificates = [x509.load_der_x509_certificate(each) for each in chain]
    key = certificates[0].public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    half = len(signature) // 2
    pair = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    try:
        key.verify(utils.encode_dss_signature(*pair), signed_bytes(protected, claim), ec.ECDSA(hashes.SHA256()))
        for lower, upper in itertools.pairwise(certificates):
            lower.verify_directly_issued_by(upper)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


# ── JUMBF ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise BrokenFile
        (length,) = struct.unpack(">I", data[at : at + 4])
        if length < 8 or at + length > len(data):
            raise BrokenFile
        yield data[at + 4 : at + 8], data[at + 8 : at + length]
        at += length


def _content(store: bytes) -> bytes:
    """Return the content of the outermost box."""
    (_, content), *_ = _boxes(store)
    return content


def _superbox(content: bytes) -> tuple[str, dict[str, bytes]]:
    """Return the label of a superbox and its boxes: those with labels by label, plain ones by type."""
    (kind, description), *others = _boxes(content)
    if kind != b"jumd":
        raise BrokenFile
    parts = {}
    for kind, part in others:
        parts[_label(part) if kind == b"jumb" else kind.decode()] = part
    return _label_of(description), parts


def _label(content: bytes) -> str:
    (kind, description), *_ = _boxes(content)
    if kind != b"jumd":
        raise BrokenFile
    return _label_of(description)


def _label_of(description: bytes) -> str:
    return description[17:].partition(b"\0")[0].decode()
