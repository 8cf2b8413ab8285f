import datetime as dt
import ipaddress
import os
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from local_cloud.certificates import (
    Authority,
    create_authority,
    issue_build,
    issue_device,
    issue_server,
    issue_signer,
)
from shared.errors import FormatError, StorageError


@pytest.fixture(scope="module")
def fleet():
    return create_authority("Fleet CA", days=30)


@pytest.fixture(scope="module")
def device_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def spki(key):
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def now():
    return dt.datetime.now(dt.UTC)


def uris(certificate):
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def common_name(certificate):
    (attribute,) = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return attribute.value


def test_server_holds_under_the_verifier_for_each_of_its_hosts():
    root = create_authority("Root", days=30)

    chain, key = issue_server(root, ["127.0.0.7", "localhost"])

    leaf, issuer = x509.load_pem_x509_certificates(chain)
    assert issuer == root.certificate
    assert serialization.load_pem_private_key(key, None).public_key() == leaf.public_key()
    builder = PolicyBuilder().store(Store([root.certificate])).time(now())
    for host in (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.7"))):
        assert builder.build_server_verifier(host).verify(leaf, []) == [leaf, root.certificate]
    with pytest.raises(VerificationError):
        builder.build_server_verifier(x509.DNSName("elsewhere.test")).verify(leaf, [])


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_device_holds_under_the_verifier_and_names_its_device(fleet, device_key, kind):
    key = device_key if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())

    leaf = issue_device(fleet, "edge-01", spki(key), days=7)

    verifier = PolicyBuilder().store(Store([fleet.certificate])).time(now()).build_client_verifier()
    assert verifier.verify(leaf, []).chain == [leaf, fleet.certificate]
    assert uris(leaf) == ["urn:cpk:device:edge-01"]
    assert common_name(leaf) == "edge-01"
    assert leaf.public_key() == key.public_key()


def test_module_is_named_with_its_device(fleet, device_key):
    leaf = issue_device(fleet, "edge-01/agent", spki(device_key), days=7)

    assert uris(leaf) == ["urn:cpk:device:edge-01/agent"]
    assert common_name(leaf) == "edge-01/agent"


def test_build_machine_is_no_device(fleet, device_key):
    leaf = issue_build(fleet, "builder", spki(device_key), days=7)

    assert uris(leaf) == ["urn:cpk:build:builder"]


def test_signer_holds_where_neither_name_nor_usage_is_demanded(fleet, device_key):
    leaf = issue_signer(fleet, "Package Signer", device_key.public_key())

    leaf_policy = ExtensionPolicy.permit_all().require_present(
        x509.KeyUsage, Criticality.CRITICAL, lambda _policy, _certificate, usage: None
    )
    verifier = (
        PolicyBuilder()
        .store(Store([fleet.certificate]))
        .time(now())
        .extension_policies(ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=leaf_policy)
        .build_client_verifier()
    )
    assert verifier.verify(leaf, []).chain == [leaf, fleet.certificate]


def test_leaf_issues_nothing(fleet, device_key):
    leaf = issue_device(fleet, "edge-01", spki(device_key), days=7)

    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_identifiers_link_leaf_and_authority(fleet, device_key):
    leaf = issue_device(fleet, "edge-01", spki(device_key), days=7)

    own = fleet.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    named = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert named.key_identifier == own.digest


def test_serial_numbers_differ(fleet, device_key):
    serials = {issue_device(fleet, "edge-01", spki(device_key), days=7).serial_number for _ in range(5)}

    assert len(serials) == 5


def test_saved_authority_is_loaded_and_its_key_is_private(fleet, tmp_path):
    before = os.umask(0)
    try:
        fleet.save(tmp_path / "ca.pem", tmp_path / "ca.key")
    finally:
        os.umask(before)

    loaded = Authority.load(tmp_path / "ca.pem", tmp_path / "ca.key")

    assert loaded.certificate == fleet.certificate
    assert loaded.private_key.private_numbers() == fleet.private_key.private_numbers()
    assert stat.S_IMODE((tmp_path / "ca.key").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.key", "ca.pem"]


def test_authority_with_somebody_elses_key_is_refused(fleet, tmp_path):
    fleet.save(tmp_path / "ca.pem", tmp_path / "ca.key")
    create_authority("Other", days=1).save(tmp_path / "other.pem", tmp_path / "other.key")

    with pytest.raises(FormatError, match="not the EC private key of"):
        Authority.load(tmp_path / "ca.pem", tmp_path / "other.key")


@pytest.mark.parametrize("damaged", ["ca.pem", "ca.key"])
def test_damaged_authority_is_refused(fleet, tmp_path, damaged):
    fleet.save(tmp_path / "ca.pem", tmp_path / "ca.key")
    (tmp_path / damaged).write_bytes(b"nothing")

    with pytest.raises(FormatError, match=damaged):
        Authority.load(tmp_path / "ca.pem", tmp_path / "ca.key")


def test_missing_authority_is_told_by_its_file(tmp_path):
    with pytest.raises(StorageError, match=r"ca\.pem"):
        Authority.load(tmp_path / "ca.pem", tmp_path / "ca.key")


def test_failed_save_leaves_nothing_behind(fleet, tmp_path):
    (tmp_path / "ca.key").mkdir()

    with pytest.raises(StorageError, match=r"ca\.key"):
        fleet.save(tmp_path / "ca.pem", tmp_path / "ca.key")

    assert [path.name for path in tmp_path.iterdir()] == ["ca.key"]


def test_key_does_not_show_in_the_representation(fleet):
    assert "private_key" not in repr(fleet)


@pytest.mark.parametrize("device_id", ["", "a b", "x" * 65, "a/b/c"])
def test_id_that_is_none_is_refused(fleet, device_key, device_id):
    with pytest.raises(FormatError):
        issue_device(fleet, device_id, spki(device_key), days=7)


def test_key_that_cannot_be_certified_is_refused(fleet):
    with pytest.raises(FormatError, match="expected RSA or EC"):
        issue_device(fleet, "edge-01", spki(x25519.X25519PrivateKey.generate()), days=7)
    with pytest.raises(FormatError):
        issue_device(fleet, "edge-01", b"nothing", days=7)


def test_server_without_a_host_is_refused():
    with pytest.raises(FormatError, match="at least one host"):
        issue_server(create_authority("Root", days=1), [])
