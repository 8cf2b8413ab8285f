"""A signer, a trust store, and packages that are sealed by the writer and then bent by hand."""

import io
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from shared.certificate_paths import TrustStore
from shared.cpk.manifest import Target, Version
from shared.cpk.opening import Requirements, open_package
from shared.cpk.profiles import REFERENCE
from shared.cpk.schemes import SignatureScheme
from shared.cpk.sealing import ClassKey, Description, seal_package
from shared.cpk.signing_keys import KeySigner
from shared.types import KeyName, Secret

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
KEY = Secret(bytes(range(32)))
PAYLOAD = b"a confidential application " * 40
DESCRIPTION = Description(
    id="app-1",
    name="Application",
    vendor="Vendor",
    target=Target(arch="aarch64", os="OP-TEE"),
    version=Version(major=1, minor=2, revision=3, date=NOW),
)


def self_signed(key, subject="Signer", *extensions):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(NOW - timedelta(days=1))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    pure = isinstance(key, ed25519.Ed25519PrivateKey | mldsa.MLDSA65PrivateKey)
    return builder.not_valid_after(NOW + timedelta(days=1)).sign(key, None if pure else hashes.SHA256())


MAKE_KEY = {
    SignatureScheme.RSA_PKCS1V15: lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    SignatureScheme.ECDSA_P256: lambda: ec.generate_private_key(ec.SECP256R1()),
    SignatureScheme.ECDSA_P384: lambda: ec.generate_private_key(ec.SECP384R1()),
    SignatureScheme.ED25519: ed25519.Ed25519PrivateKey.generate,
    SignatureScheme.ML_DSA_65: mldsa.MLDSA65PrivateKey.generate,
}


@dataclass(kw_only=True)
class Bench:
    """What a test needs to seal and open packages."""

    signer: KeySigner
    trust: TrustStore
    asked: list = field(default_factory=list)

    def seal(
        self,
        payload=PAYLOAD,
        *,
        signed=True,
        version=None,
        key=KEY,
        nonce=None,
        profile=REFERENCE,
        package_signature=True,
        parallel=None,
    ):
        output = io.BytesIO()
        seal_package(
            io.BytesIO(payload),
            len(payload),
            output,
            description=DESCRIPTION,
            class_key=ClassKey(name=KeyName("app-1"), version=version, key=key),
            nonce=nonce if nonce is not None else bytes(range(profile.nonce_size)),
            signer=self.signer if signed else None,
            profile=profile,
            package_signature=package_signature,
            parallel=parallel,
        )
        return output.getvalue()

    def open(self, data, *, key=KEY, at=NOW, trust=None, file=None, sink=None, parallel=None, **requirements):
        """Return what was opened and the payload in clear."""
        clear = bytearray()

        def class_key(reference):
            self.asked.append(reference)
            return key

        opened = open_package(
            file if file is not None else io.BytesIO(data),
            len(data),
            class_key=class_key,
            trust=trust if trust is not None else self.trust,
            at=at,
            requirements=Requirements(**requirements),
            sink=sink if sink is not None else clear.extend,
            parallel=parallel,
        )
        return opened, bytes(clear)


@pytest.fixture(scope="session")
def signing_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="session")
def signing_keys(signing_key):
    """Return a private key for each scheme, made once."""
    keys = {scheme: make() for scheme, make in MAKE_KEY.items() if scheme is not SignatureScheme.RSA_PKCS1V15}
    return keys | dict.fromkeys((SignatureScheme.RSA_PKCS1V15, SignatureScheme.RSA_PSS), signing_key)


@pytest.fixture
def bench_of(signing_keys):
    """Return a bench whose signer signs by a scheme."""

    def made(scheme):
        certificate = self_signed(signing_keys[scheme])
        signer = KeySigner.load(
            signing_keys[scheme], certificate.public_bytes(Encoding.PEM), where="sign.pem", scheme=scheme
        )
        return Bench(signer=signer, trust=TrustStore(roots=(certificate,)))

    return made


@pytest.fixture
def bench(bench_of):
    return bench_of(SignatureScheme.RSA_PKCS1V15)


@dataclass(kw_only=True)
class Taken:
    """A package taken apart, to be put together otherwise."""

    header: list
    streams: list
    table: dict = field(default_factory=dict)

    @property
    def manifest_index(self):
        return self.header[4]

    def manifest(self):
        return json.loads(self.streams[self.manifest_index])

    def with_manifest(self, document):
        self.streams[self.manifest_index] = json.dumps(document).encode()
        return self

    def join(self):
        header = [*self.header[:3], len(self.streams), *self.header[4:]]
        table, offset = b"", 0
        for index, stream in enumerate(self.streams):
            table += struct.pack("<QQ", *self.table.get(index, (offset, len(stream))))
            offset += len(stream)
        return struct.pack("<IHHHHHH", *header) + table + b"".join(self.streams)


@pytest.fixture
def take():
    """Take a package's bytes apart."""

    def taken(data):
        header = list(struct.unpack_from("<IHHHHHH", data))
        origin = 16 + 16 * header[3]
        entries = [struct.unpack_from("<QQ", data, 16 + 16 * index) for index in range(header[3])]
        streams = [data[origin + offset : origin + offset + size] for offset, size in entries]
        return Taken(header=header, streams=streams)

    return taken


@pytest.fixture
def edit(bench, take):
    """Return the bytes of an unsigned-as-a-whole package with one place of its manifest replaced."""

    def edited(path, value, *, signed=True):
        package = take(bench.seal(signed=signed))
        document = package.manifest()
        if signed:
            del document["package"]["layout"]
        *parents, last = path.split("/")
        place = document
        for parent in parents:
            place = place[parent]
        if value is ...:
            del place[last]
        else:
            place[last] = value
        return package.with_manifest(document).join()

    return edited


@pytest.fixture
def certify():
    """Return the PEM of a self-signed certificate for a key, with extensions."""

    def certified(key, *extensions):
        return self_signed(key, "Signer", *extensions).public_bytes(Encoding.PEM)

    return certified
