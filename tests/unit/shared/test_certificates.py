"""Public keys and certificate paths from hostile hands."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared import certificate_paths, public_keys
from shared.certificate_paths import MAX_INTERMEDIATES, TrustStore, validate_path
from shared.certificates import build_name_of, device_id_of, leaf_public_key, load_certificates
from shared.errors import FormatError, VerificationError
from shared.public_keys import KeyKind, load_public_key

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
CA = x509.BasicConstraints(ca=True, path_length=None)
P = 2**255 - 19


def spki_of(key):
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def rsa_key(bits, exponent=65537, low=1):
    return rsa.RSAPublicNumbers(exponent, (1 << (bits - 1)) | low).public_key()


@functools.cache
def ec_key(label):
    return ec.derive_private_key(
        int.from_bytes(hashlib.sha256(label.encode()).digest()[:31], "big"), ec.SECP256R1()
    )


@functools.cache
def private_rsa(bits=2048):
    return rsa.generate_private_key(65537, bits)


def certificate(
    subject,
    issuer=None,
    *,
    key=None,
    extensions=(),
    start=-1,
    end=1,
    signer=None,
):
    """Issue a certificate; names stand for key pairs, `start` and `end` are days from NOW."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject else []))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer or subject)]))
        .public_key(key or ec_key(subject).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=start))
        .not_valid_after(NOW + timedelta(days=end))
    )
    for extension in extensions:
        builder = builder.add_extension(
            extension, critical=not isinstance(extension, x509.SubjectAlternativeName)
        )
    return builder.sign(ec_key(signer or issuer or subject), hashes.SHA256())


def authority(subject, issuer=None, **other):
    return certificate(subject, issuer, extensions=(CA,), end=other.pop("end", 10), **other)


def san(*uris):
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])


def pem(*certificates):
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def der(*certificates):
    return b"".join(each.public_bytes(Encoding.DER) for each in certificates)


def trust(*roots):
    return TrustStore(roots=roots)


def refusal(chain, store, at=NOW):
    with pytest.raises(VerificationError) as caught:
        validate_path(chain, store, at=at)
    return caught.value.code


# --- public keys ------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (rsa_key(2048), KeyKind.RSA),
        (rsa_key(3072), KeyKind.RSA),
        (rsa_key(4096), KeyKind.RSA),
        (ec_key("device").public_key(), KeyKind.P256),
        (x25519.X25519PrivateKey.from_private_bytes(b"k" * 32).public_key(), KeyKind.X25519),
    ],
)
def test_keys_of_the_protocol_load_and_have_the_fingerprint_of_their_spki(key, kind):
    loaded = load_public_key(spki_of(key), where="here")
    assert loaded.kind is kind
    assert loaded.fingerprint == hashlib.sha256(spki_of(key)).digest()


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (rsa_key(1024), "RSA of 1024 bits"),
        (rsa_key(2047), "RSA of 2047 bits"),
        (rsa_key(2056), "RSA of 2056 bits"),
        (rsa_key(2048, 3), "exponent of 2 bits"),
        (rsa_key(2048, (1 << 2000) | 1), "exponent of 2001 bits"),
        (rsa_key(2048, low=2), "even modulus"),
        (ec.generate_private_key(ec.SECP384R1()).public_key(), "secp384r1"),
        (ec.generate_private_key(ec.SECP256K1()).public_key(), "secp256k1"),
        (ed25519.Ed25519PrivateKey.generate().public_key(), "another kind"),
        (x448.X448PrivateKey.generate().public_key(), "another kind"),
    ],
)
def test_other_keys_are_refused_by_what_they_are(key, found):
    with pytest.raises(FormatError, match=found) as caught:
        load_public_key(spki_of(key), where="device_public_key")
    assert str(caught.value).startswith("device_public_key: expected ")


@pytest.mark.parametrize("exponent_bits", [64, 4000])
def test_a_key_that_is_too_long_is_refused_before_it_is_parsed(exponent_bits):
    with pytest.raises(FormatError, match="at most 550 bytes"):
        load_public_key(spki_of(rsa_key(4096, (1 << exponent_bits) | 1)), where="here")


def test_only_the_canonical_encoding_to_its_last_byte_is_a_key():
    public = ec_key("device").public_key()
    spki = spki_of(public)
    compressed = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + public.public_bytes(
        Encoding.X962, PublicFormat.CompressedPoint
    )
    pkcs1 = rsa_key(2048).public_bytes(Encoding.DER, PublicFormat.PKCS1)
    long_length = b"\x30\x81" + spki[1:]
    for other in (spki + b"\0", spki[:-1], compressed, pkcs1, long_length, b"", pem(authority("x")), b"\x30"):
        with pytest.raises(FormatError):
            load_public_key(other, where="here")


def test_explicit_curve_parameters_are_refused():
    # P-256's own parameters, written out instead of named (RFC 5480 section 2.1.1 forbids it).
    curve = bytes.fromhex(
        "3081f7020101302c06072a8648ce3d0101022100ffffffff00000001000000000000000000000000ffffffffffffffff"
        "ffffffff305b0420ffffffff00000001000000000000000000000000fffffffffffffffffffffffc04205ac635d8aa3a"
        "93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b031500c49d360886e704936a6678e1139d26b7819f7e"
        "900441046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a"
        "7c0f9e162bce33576b315ececbb6406837bf51f5022100ffffffff00000000ffffffffffffffffbce6faada7179e84f3"
        "b9cac2fc632551020101"
    )
    point = ec_key("device").public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    algorithm = bytes.fromhex("06072a8648ce3d0201") + curve
    body = b"\x30\x82" + len(algorithm).to_bytes(2, "big") + algorithm + b"\x03\x42\x00" + point
    with pytest.raises(FormatError):
        load_public_key(b"\x30\x82" + len(body).to_bytes(2, "big") + body, where="here")


LOW_ORDER = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P - 1,
    P,
    P + 1,
]


@pytest.mark.parametrize("point", [*LOW_ORDER, *(point + 2**255 for point in LOW_ORDER)])
def test_x25519_points_that_share_no_secret_are_refused(point):
    key = x25519.X25519PublicKey.from_public_bytes(point.to_bytes(32, "little"))
    with pytest.raises(ValueError, match="shared key"):  # that it is such a point
        x25519.X25519PrivateKey.generate().exchange(key)
    with pytest.raises(FormatError, match="low order"):
        load_public_key(spki_of(key), where="here")


# --- certificates ------------------------------------------------------------


def test_chains_load_from_pem_and_from_concatenated_der():
    chain = (certificate("leaf", "ca"), authority("ca", "root"), authority("root"))
    assert load_certificates(pem(*chain), where="here") == chain
    assert load_certificates(der(*chain), where="here") == chain
    assert load_certificates(b"explanatory text\n" + pem(*chain), where="here") == chain


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x82",
        b"\x30\x82\x00\x00",
        b"\x30\x80\x00\x00",
        b"\x30\x84\xff\xff\xff\xff" + bytes(64),
        b"\x30\x82\x00\x10" + bytes(16),
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"text",
        bytes(100),
        der(authority("ca")) + b"\x00",
        der(authority("ca"))[:-1],
        der(authority("ca")) + der(authority("ca"))[:-1],
        pem(*[authority("ca")] * 9),
        der(*[authority("ca")] * 9),
        b" " * (64 * 1024 + 1),
    ],
)
def test_what_is_no_chain_is_refused(data):
    with pytest.raises(FormatError, match=r"^here: "):
        load_certificates(data, where="here")


def with_edi_party_name(good):
    """Return the DER with its URI turned into a name of a kind that the library does not know."""
    (uri,) = good.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    coded = bytes([0x86, len(uri.value)]) + uri.value.encode()
    return der(good).replace(coded, bytes([0xA5]) + coded[1:])


def test_a_certificate_is_parsed_down_to_its_extensions_and_key():
    good = certificate("leaf", "ca", extensions=(san("urn:cpk:device:edge-01"),))
    broken_san = der(good).replace(b"urn:cpk:device", b"\xffrn:cpk:device")
    broken_curve = der(good).replace(
        bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("06082a8648ce3d030199")
    )
    name_of_bits = der(good).replace(bytes.fromhex("06035504030c"), bytes.fromhex("060355040303"))
    for broken in (broken_san, broken_curve, name_of_bits, with_edi_party_name(good)):
        assert broken != der(good)
        with pytest.raises(FormatError, match=r"^here: "):
            load_certificates(broken, where="here")


@pytest.mark.parametrize("encoded", [lambda data: data, ssl.DER_cert_to_PEM_cert], ids=["der", "pem"])
def test_a_certificate_of_no_known_version_is_refused(encoded):
    good = der(certificate("leaf", "ca"))
    broken = good.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020122"))
    data = encoded(broken)

    with pytest.raises(FormatError, match=r"^here: "):
        load_certificates(data if isinstance(data, bytes) else data.encode(), where="here")


def test_a_path_over_intermediates_ends_in_its_root():
    root = authority("root")
    chain = (certificate("leaf", "ca2"), authority("ca2", "ca1"), authority("ca1", "root"))
    path = validate_path(chain, trust(authority("another"), root), at=NOW)
    assert (path.leaf, path.root) == (chain[0], root)
    assert path.root_sha256 == hashlib.sha256(der(root)).hexdigest()


@pytest.mark.parametrize("key", [private_rsa().public_key(), ec_key("device").public_key()])
def test_rsa_and_ec_leaves_are_accepted_under_an_ec_root_without_san_or_eku(key):
    assert validate_path((certificate("edge-01", "root", key=key),), trust(authority("root")), at=NOW)


def test_an_x25519_leaf_and_any_extended_key_usage_are_accepted():
    key = x25519.X25519PrivateKey.generate().public_key()
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
    leaf = certificate("edge-01", "root", key=key, extensions=(usage,))
    assert validate_path((leaf,), trust(authority("root")), at=NOW).leaf == leaf


def test_a_leaf_that_is_a_root_is_accepted_while_it_is_valid():
    leaf = certificate("vendor")
    path = validate_path((leaf,), trust(leaf), at=NOW)
    assert path.root == leaf
    assert refusal((leaf,), trust(leaf), NOW + timedelta(days=2)) == "certificate_expired"


def test_validity_is_judged_at_the_given_time():
    root, leaf = authority("root"), certificate("leaf", "root")
    for at in (NOW - timedelta(days=1), NOW, NOW + timedelta(days=1)):
        assert validate_path((leaf,), trust(root), at=at).root == root
    assert refusal((leaf,), trust(root), NOW + timedelta(days=1, seconds=1)) == "certificate_expired"
    assert refusal((leaf,), trust(root), NOW - timedelta(days=1, seconds=1)) == "certificate_not_yet_valid"


def test_an_expired_intermediate_or_root_is_not_relied_on():
    leaf = certificate("leaf", "ca", end=5)
    chain = (leaf, authority("ca", "root", end=2))
    assert refusal(chain, trust(authority("root")), NOW + timedelta(days=3)) == "certificate_expired"
    lasting = (leaf, authority("ca", "root"))
    assert (
        refusal(lasting, trust(authority("root", end=2)), NOW + timedelta(days=3)) == "certificate_untrusted"
    )


def sequence(body):
    octets = 1 if len(body) < 256 else 2
    return bytes([0x30, 0x80 + octets]) + len(body).to_bytes(octets, "big") + body


def resigned_with_sha1(good):
    """Return the certificate as its issuer "root" would have signed it with SHA-1; the builder refuses to."""
    sha256, sha1 = bytes.fromhex("300a06082a8648ce3d040302"), bytes.fromhex("300906072a8648ce3d0401")
    content = good.tbs_certificate_bytes.partition(b"\xa0\x03\x02\x01\x02")
    tbs = sequence(b"".join(content[1:]).replace(sha256, sha1))
    signature = ec_key("root").sign(tbs, ec.ECDSA(hashes.SHA1()))
    bits = b"\x03" + bytes([len(signature) + 1]) + b"\0" + signature
    return load_certificates(sequence(tbs + sha1 + bits), where="resigned")[0]


UNTRUSTED = {
    "self-made": (certificate("rogue"),),
    "self-made under the root's name": (
        certificate("leaf", "root", signer="rogue"),
        authority("root", signer="rogue", key=ec_key("rogue").public_key()),
    ),
    "no intermediate": (certificate("leaf", "ca"),),
    "an issuer that is no CA": (certificate("leaf", "ca"), certificate("ca", "root")),
    "an issuer that says it is no CA": (
        certificate("leaf", "ca"),
        certificate("ca", "root", extensions=(x509.BasicConstraints(ca=False, path_length=None),)),
    ),
    "an issuer that may not sign certificates": (
        certificate("leaf", "ca"),
        certificate(
            "ca",
            "root",
            extensions=(
                CA,
                x509.KeyUsage(
                    digital_signature=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=False,
                    crl_sign=False,
                    encipher_only=False,
                    decipher_only=False,
                ),
            ),
        ),
    ),
    "a path longer than an issuer allows": (
        certificate("leaf", "ca2"),
        authority("ca2", "ca1"),
        certificate("ca1", "root", extensions=(x509.BasicConstraints(ca=True, path_length=0),)),
    ),
    "an unknown critical extension": (
        certificate(
            "leaf",
            "root",
            extensions=(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\0"),),
        ),
    ),
    "a SHA-1 signature": (resigned_with_sha1(certificate("leaf", "root")),),
    "an RSA key that is too short": (certificate("leaf", "root", key=rsa_key(1024)),),
    "an RSA key of a costly exponent": (certificate("leaf", "root", key=rsa_key(2048, (1 << 1500) | 1)),),
    "two intermediates of one subject": (
        certificate("leaf", "ca"),
        authority("ca", "root"),
        authority("ca", "root"),
    ),
    "too many intermediates": (
        certificate("leaf", f"ca{MAX_INTERMEDIATES}"),
        *(authority(f"ca{n}", f"ca{n - 1}") for n in range(MAX_INTERMEDIATES, 0, -1)),
        authority("ca0", "root"),
    ),
    "nothing": (),
    "an issuer on a curve of no certificate": (
        certificate("leaf", "ca"),
        authority("ca", "root", key=ec.generate_private_key(ec.SECP256K1()).public_key()),
    ),
}


@pytest.mark.parametrize("what", UNTRUSTED)
def test_everything_else_is_untrusted(what):
    assert refusal(UNTRUSTED[what], trust(authority("root"))) == "certificate_untrusted"


def test_an_empty_trust_store_trusts_nothing_and_does_not_load():
    assert refusal((certificate("leaf", "root"),), trust()) == "certificate_untrusted"
    with pytest.raises(FormatError):
        TrustStore.from_pem(b"", where="trust.pem")
    assert len(TrustStore.from_pem(pem(authority("a"), authority("b")), where="trust.pem").roots) == 2


@pytest.mark.parametrize(
    "chain",
    [
        (certificate("leaf", "root", key=rsa_key(2048, (1 << 1999) | 1)),),
        (certificate("leaf", "root", key=rsa_key(16384)),),
        (certificate("leaf", "ca"), authority("ca", "root", key=rsa_key(16384, (1 << 16000) | 1))),
        (
            certificate("leaf", "ca"),
            authority("ca", "root", key=ec.generate_private_key(ec.SECP256K1()).public_key()),
        ),
    ],
)
def test_a_hostile_key_in_a_chain_is_refused_before_any_signature_is_checked(chain, monkeypatch):
    checked = []
    monkeypatch.setattr(certificate_paths, "_verifier", lambda *_: checked.append("a path"))
    assert refusal(chain, trust(authority("root"))) == "certificate_untrusted"
    assert checked == []


@pytest.mark.parametrize(
    "spki",
    [spki_of(rsa_key(16384)), spki_of(rsa_key(4096, (1 << 2000) | 1)), b"0" * 4096],
)
def test_a_key_that_is_too_long_is_not_even_parsed(spki, monkeypatch):
    parsed = []
    monkeypatch.setattr(public_keys, "load_der_public_key", parsed.append)
    with pytest.raises(FormatError):
        load_public_key(spki, where="here")
    assert parsed == []


# --- issuers whose path was validated before ---------------------------------


@pytest.fixture
def issuers():
    """A root of 10 days and an intermediate of 5."""
    return authority("root"), authority("ca", "root", end=5)


@pytest.fixture
def known(issuers):
    """A trust store that has validated a leaf of that intermediate."""
    root, intermediate = issuers
    store = trust(root)
    validate_path((certificate("first", "ca"), intermediate), store, at=NOW)
    assert len(store.known) == 1
    return store


@pytest.fixture
def searches(monkeypatch):
    """The leaves whose whole path is searched for."""
    found, search = [], certificate_paths._search_path
    monkeypatch.setattr(
        certificate_paths, "_search_path", lambda *given: found.append(given[0]) or search(*given)
    )
    return found


def test_a_path_is_searched_for_once_and_each_leaf_is_judged(issuers, known, searches):
    leaf = certificate("second", "ca")
    path = validate_path((leaf, issuers[1]), known, at=NOW)
    assert (path.leaf, path.root, searches) == (leaf, issuers[0], [])


@pytest.mark.parametrize(
    ("leaf", "code"),
    [
        (certificate("leaf", "ca", signer="another"), "certificate_untrusted"),
        (certificate("leaf", "another"), "certificate_untrusted"),
        (certificate("leaf", "ca", key=rsa_key(1024)), "certificate_untrusted"),
        (certificate("leaf", "ca", key=rsa_key(2048, 3)), "certificate_untrusted"),
        (certificate("leaf", "ca", start=-3, end=-2), "certificate_expired"),
        (certificate("leaf", "ca", start=1, end=2), "certificate_not_yet_valid"),
    ],
)
def test_a_leaf_that_a_search_refuses_is_refused_under_known_issuers(issuers, known, leaf, code):
    assert refusal((leaf, issuers[1]), known) == code
    assert refusal((leaf, issuers[1]), trust(issuers[0])) == code


@pytest.mark.parametrize("days", [5, 10])
def test_an_issuer_or_root_that_ended_after_its_path_was_validated_is_refused(issuers, known, days):
    leaf = certificate("second", "ca", end=20)
    validate_path((leaf, issuers[1]), known, at=NOW + timedelta(days=4))
    assert refusal((leaf, issuers[1]), known, NOW + timedelta(days=days, seconds=1)) == "certificate_expired"


def test_a_root_that_ends_first_ends_the_paths_to_it():
    root, intermediate = authority("root", end=2), authority("ca", "root")
    store, leaf = trust(root), certificate("leaf", "ca", end=9)
    validate_path((leaf, intermediate), store, at=NOW)
    assert refusal((leaf, intermediate), store, NOW + timedelta(days=3)) == "certificate_untrusted"


def test_before_an_issuer_was_valid_its_known_path_is_worth_nothing(issuers, known):
    assert refusal((certificate("leaf", "ca", start=-9), issuers[1]), known, NOW - timedelta(days=2)) == (
        "certificate_not_yet_valid"
    )


def test_another_certificate_of_a_known_issuers_name_is_not_the_known_one(known):
    forged = authority("ca", signer="another")
    assert refusal((certificate("leaf", "ca", signer="another"), forged), known) == "certificate_untrusted"
    assert len(known.known) == 1


def test_other_roots_know_none_of_the_paths(issuers, known):
    other = dataclasses.replace(known, roots=(authority("other"),))
    assert refusal((certificate("leaf", "ca"), issuers[1]), other) == "certificate_untrusted"


def test_a_known_issuer_is_no_leaf_of_its_own(issuers, known):
    intermediate = issuers[1]
    assert validate_path((intermediate, intermediate), known, at=NOW) == validate_path(
        (intermediate, intermediate), trust(issuers[0]), at=NOW
    )


def test_a_root_that_is_shown_with_known_intermediates_is_its_own_root(issuers, known):
    assert validate_path(issuers, known, at=NOW).root == issuers[0]


def test_a_leaf_of_the_root_itself_is_found_beside_known_intermediates(issuers, known, searches):
    leaf = certificate("leaf", "root")
    assert validate_path((leaf, issuers[1]), known, at=NOW).root == issuers[0]
    assert searches == [leaf]


def test_a_path_that_constrains_names_is_searched_for_each_leaf(searches):
    root, intermediate = authority("root"), constrained(permitted=[x509.DNSName("device.test")])
    store, leaf = (
        trust(root),
        certificate("leaf", "ca", extensions=(x509.SubjectAlternativeName([x509.DNSName("device.test")]),)),
    )
    for _ in range(2):
        validate_path((leaf, intermediate), store, at=NOW)
    assert (searches, store.known) == ([leaf, leaf], {})


def test_a_path_that_was_refused_is_not_known(issuers):
    store = trust(issuers[0])
    refusal((certificate("leaf", "ca", signer="another"), issuers[1]), store)
    assert store.known == {}


def test_known_paths_are_bounded(monkeypatch, issuers):
    monkeypatch.setattr(certificate_paths, "MAX_KNOWN_PATHS", 3)
    store = trust(issuers[0])
    for number in range(8):
        validate_path((certificate("leaf", f"ca {number}"), authority(f"ca {number}", "root")), store, at=NOW)
        assert len(store.known) <= 3


# --- name constraints --------------------------------------------------------

URI, DNS, MAIL = x509.UniformResourceIdentifier, x509.DNSName, x509.RFC822Name
ANY_DIRECTORY = x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Org")]))


def constrained(*, permitted=None, excluded=None, critical=True):
    """Return "ca" under "root", whose certificates must keep to these names."""
    constraints = x509.NameConstraints(permitted, excluded)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]))
        .public_key(ec_key("ca").public_key())
        .serial_number(7)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(CA, critical=True)
        .add_extension(constraints, critical=critical)
        .sign(ec_key("root"), hashes.SHA256())
    )


@pytest.mark.parametrize("critical", [True, False])
@pytest.mark.parametrize(
    ("constraints", "names"),
    [
        ({"permitted": [URI("plant.example")]}, [URI("urn:cpk:device:edge-01")]),
        ({"excluded": [URI("plant.example")]}, [URI("urn:cpk:device:edge-01")]),
        ({"permitted": [URI("plant.example")]}, None),  # named by the common name alone
        ({"permitted": [DNS("plant.example")]}, [DNS("evil.example")]),
        ({"excluded": [MAIL("evil.example")]}, [MAIL("a@evil.example")]),
        ({"permitted": [ANY_DIRECTORY]}, None),
        ({"excluded": [ANY_DIRECTORY]}, [URI("urn:cpk:device:edge-01")]),
    ],
)
def test_names_that_an_issuer_may_not_give_or_nobody_can_judge_are_refused(constraints, names, critical):
    extensions = () if names is None else (x509.SubjectAlternativeName(names),)
    chain = (
        certificate("edge-01", "ca", extensions=extensions),
        constrained(**constraints, critical=critical),
    )
    assert refusal(chain, trust(authority("root"))) == "certificate_untrusted"


@pytest.mark.parametrize(
    ("constraints", "names"),
    [
        ({"permitted": [DNS("plant.example")]}, [DNS("a.plant.example"), URI("urn:cpk:device:edge-01")]),
        ({"permitted": [DNS("plant.example")]}, None),
        ({"excluded": [DNS("evil.example")]}, [URI("urn:cpk:device:edge-01")]),
    ],
)
def test_constraints_on_other_kinds_of_names_leave_a_device_its_own(constraints, names):
    extensions = () if names is None else (x509.SubjectAlternativeName(names),)
    chain = (certificate("edge-01", "ca", extensions=extensions), constrained(**constraints))
    assert device_id_of(validate_path(chain, trust(authority("root")), at=NOW).leaf) == "edge-01"


# --- names ------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "extensions", "device"),
    [
        ("edge-01", (), "edge-01"),
        ("cn", (san("urn:cpk:device:edge-01"),), "edge-01"),
        ("cn", (san("https://a.example/", "urn:cpk:device:edge-01/agent"),), "edge-01/agent"),
        ("cn", (san("urn:cpk:device:a%2fb"),), "a%2fb"),
        ("edge-01", (san("https://a.example/"),), None),
        ("edge-01", (x509.SubjectAlternativeName([x509.DNSName("edge-01")]),), None),
        ("edge-01", (san("urn:cpk:device:edge-01", "urn:cpk:device:edge-02"),), None),
        ("edge-01", (san("urn:cpk:device:"),), None),
        ("edge-01", (san("urn:cpk:device:a b"),), None),
        ("not an id", (), None),
        ("", (), None),
    ],
)
def test_a_device_is_named_by_its_one_uri_or_without_any_san_by_its_common_name(subject, extensions, device):
    named = certificate(subject, "root", key=ec_key("device").public_key(), extensions=extensions)
    assert device_id_of(named) == device


@pytest.mark.parametrize(
    ("extensions", "name"),
    [
        ((san("urn:cpk:build:ci-01"),), "ci-01"),
        ((san("urn:cpk:build:ci-01", "urn:cpk:build:ci-02"),), None),
        ((san("urn:cpk:build:"),), None),
        ((san("urn:cpk:device:ci-01"),), None),
        ((), None),
    ],
)
def test_a_build_machine_is_named_by_its_one_uri_alone(extensions, name):
    assert build_name_of(certificate("ci-01", "root", extensions=extensions)) == name


@pytest.mark.parametrize("key", [private_rsa().public_key(), ec_key("device").public_key()])
def test_a_leafs_key_is_its_canonical_spki(key):
    assert leaf_public_key(certificate("leaf", "root", key=key)) == spki_of(key)
