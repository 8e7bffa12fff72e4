"""Write C2PA manifests into images: signed statements that the image was generated, when, and by which model.

Follows the C2PA specification 2.1: a JUMBF store with assertions, a claim in CBOR, and a COSE signature (ES256), where
each file format has it (`images/provenance/containers.py`). Reading and validating is
`images/provenance/manifest_reader.py`. The library c2pa-python would do both, but is too large to install everywhere
(decision 0016); the tests validate with it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from minitoolai.core.catalog.shop import UNNAMED
from minitoolai.core.cbor import Tagged, Wide, encode
from minitoolai.images.provenance.containers import kind_of, opened, wrapped, wrapped_bytes

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
#: COSE header labels and algorithm.
ALGORITHM, CERTIFICATE_CHAIN, ES256 = 1, 33, -7
COSE_SIGN1 = 18
_SUFFIX = bytes.fromhex("00110010800000aa00389b71")


class ManifestSigner:
    """The operator's certificate chain and private key."""

    def __init__(self, chain: list[bytes], key: Any) -> None:
        """`chain`: certificates in DER, the signer's first. `key`: its private key, an elliptic-curve key on P-256."""
        self.chain = chain
        self._key = key

    def sign(self, data: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, utils

        r, s = utils.decode_dss_signature(self._key.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class Provenance(msgspec.Struct, frozen=True):
    """What a manifest states about an image."""

    model: str
    generation: str
    created_ms: int
    generator: tuple[str, ...] = UNNAMED.generator
    title: str = "image.png"


def add_manifest(image: bytes, provenance: Provenance, signer: ManifestSigner, unique: str) -> bytes:
    """Return the PNG, JPEG or WebP file with a manifest. `unique` is a UUID for the manifest.

    Raises ValueError for any other file.
    """
    kind = kind_of(image)
    title = f"image.{kind}"
    provenance = msgspec.structs.replace(provenance, title=title)
    # The excluded range is the manifest itself, so its length must be known: build twice, with numbers of one width.
    draft = _store(provenance, signer, unique, bytes(32), 0x10000, 0x10000, is_draft=True)
    file = opened(image, len(draft))
    digest = hashlib.sha256(file.head)
    digest.update(file.tail)
    length = wrapped_bytes(kind, len(draft))
    store = _store(provenance, signer, unique, digest.digest(), len(file.head), length, is_draft=False)
    assert len(store) == len(draft)
    return b"".join((file.head, wrapped(kind, store), file.tail))


def _store(
    provenance: Provenance,
    signer: ManifestSigner,
    unique: str,
    digest: bytes,
    start: int,
    length: int,
    *,
    is_draft: bool,
) -> bytes:
    label = f"urn:c2pa:{unique}"
    when = datetime.fromtimestamp(provenance.created_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    agent = dict(zip(("name", "version"), provenance.generator, strict=False))
    action = {
        "action": "c2pa.created",
        "when": Tagged(0, when),
        "softwareAgent": agent,
        "digitalSourceType": SOURCE_TYPE,
        "parameters": {"model": provenance.model, "generation": provenance.generation},
    }
    assertions: dict[str, Mapping[str, Any]] = {
        "c2pa.actions.v2": {"actions": [action], "allActionsIncluded": True},
        "c2pa.hash.data": {
            "exclusions": [{"start": Wide(start), "length": Wide(length)}],
            "name": "jumbf manifest",
            "alg": "sha256",
            "hash": digest,
            "pad": b"",
        },
    }
    boxes = {name: _cbor_box(name, value) for name, value in assertions.items()}
    claim = encode(
        {
            "instanceID": f"xmp:iid:{unique}",
            "claim_generator_info": agent,
            "signature": f"self#jumbf=/c2pa/{label}/c2pa.signature",
            "created_assertions": [
                {"url": f"self#jumbf=c2pa.assertions/{name}", "hash": hashlib.sha256(box[8:]).digest()}
                for name, box in boxes.items()
            ],
            "alg": "sha256",
            "dc:title": provenance.title,
        }
    )
    manifest = _superbox(
        "c2ma",
        label,
        _superbox("c2as", "c2pa.assertions", *boxes.values()),
        _superbox("c2cl", "c2pa.claim.v2", _box(b"cbor", claim)),
        _superbox("c2cs", "c2pa.signature", _box(b"cbor", _signature(claim, signer, is_draft=is_draft))),
    )
    return _superbox("c2pa", "c2pa", manifest)


def _signature(claim: bytes, signer: ManifestSigner, *, is_draft: bool) -> bytes:
    """Return the COSE_Sign1 structure with a detached payload."""
    protected = encode({ALGORITHM: ES256, CERTIFICATE_CHAIN: signer.chain})
    signature = bytes(64) if is_draft else signer.sign(signed_bytes(protected, claim))
    return encode(Tagged(COSE_SIGN1, [protected, {}, None, signature]))


def signed_bytes(protected: bytes, claim: bytes) -> bytes:
    """Return what a COSE signature of a claim signs."""
    return encode(["Signature1", protected, b"", claim])


def _superbox(kind: str, label: str, *contents: bytes) -> bytes:
    # Toggles: requestable, with a label.
    description = kind.encode() + _SUFFIX + b"\x03" + label.encode() + b"\0"
    return _box(b"jumb", _box(b"jumd", description), *contents)


def _cbor_box(label: str, value: Mapping[str, Any]) -> bytes:
    return _superbox("cbor", label, _box(b"cbor", encode(value)))


def _box(kind: bytes, *contents: bytes) -> bytes:
    return struct.pack(">I", 8 + sum(map(len, contents))) + kind + b"".join(contents)
