"""Revocation lists: what they refuse, when they are believed, and what is no list."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from shared.certificate_paths import TrustStore, validate_path
from shared.errors import FormatError, VerificationError
from shared.revocation import load_revocation_lists

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
CA = x509.BasicConstraints(ca=True, path_length=None)


@functools.cache
def key(label):
    return ec.derive_private_key(
        int.from_bytes(hashlib.sha256(label.encode()).digest()[:31], "big"), ec.SECP256R1()
    )


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def usage(*, crl_sign):
    others = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "encipher_only decipher_only"
    )
    return x509.KeyUsage(key_cert_sign=True, crl_sign=crl_sign, **dict.fromkeys(others.split(), False))


def certificate(subject, issuer, serial, *extensions):
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key(subject).public_key())
        .serial_number(serial)
        .not_valid_before(NOW - 9 * DAY)
        .not_valid_after(NOW + 9 * DAY)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key(issuer), hashes.SHA256())


def revocation_list(issuer, *serials, signer=None, start=-DAY, end=DAY, extensions=(), entry_extensions=()):
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name(issuer))
        .last_update(NOW + start)
        .next_update(NOW + end)
    )
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - DAY)
        for extension in entry_extensions:
            entry = entry.add_extension(extension, critical=True)
        builder = builder.add_revoked_certificate(entry.build())
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key(signer or issuer), hashes.SHA256())


def pem(*lists):
    return b"".join(each.public_bytes(Encoding.PEM) for each in lists)


ROOT = certificate("root", "root", 1, CA)
INTERMEDIATE = certificate("ca", "root", 2, CA)
LEAF = certificate("edge-01", "ca", 3)
CHAIN = (LEAF, INTERMEDIATE)
ROOTS_LIST = revocation_list("root", 99)


def outcome(*lists, chain=CHAIN, roots=(ROOT,), at=NOW):
    store = TrustStore(roots=roots, revocations=load_revocation_lists(pem(*lists), where="crl.pem"))
    try:
        validate_path(chain, store, at=at)
    except VerificationError as error:
        return error.code
    return "accepted"


def test_without_lists_nothing_is_revoked():
    assert validate_path(CHAIN, TrustStore(roots=(ROOT,)), at=NOW).root == ROOT


def test_what_the_lists_of_all_issuers_do_not_name_is_accepted():
    assert outcome(ROOTS_LIST, revocation_list("ca", 4, 5)) == "accepted"


def test_a_certificate_that_its_issuer_revoked_is_refused():
    assert outcome(ROOTS_LIST, revocation_list("ca", 4, 3)) == "certificate_revoked"


def test_an_intermediate_that_the_root_revoked_takes_its_leaves_with_it():
    assert outcome(revocation_list("root", 2), revocation_list("ca")) == "certificate_revoked"


@pytest.fixture
def known():
    """A trust store that has validated the path above the leaf, with lists of a day."""
    lists = load_revocation_lists(pem(ROOTS_LIST, revocation_list("ca", 7)), where="crl.pem")
    store = TrustStore(roots=(ROOT,), revocations=lists)
    validate_path(CHAIN, store, at=NOW)
    assert len(store.known) == 1
    return store


@pytest.mark.parametrize(
    ("serial", "later", "code"),
    [(7, 0 * DAY, "certificate_revoked"), (3, 2 * DAY, "revocation_unknown")],
    ids=["a revoked leaf", "lists that became stale"],
)
def test_lists_are_asked_though_the_path_above_a_leaf_is_known(known, serial, later, code):
    with pytest.raises(VerificationError) as caught:
        validate_path((certificate("edge-01", "ca", serial), INTERMEDIATE), known, at=NOW + later)
    assert caught.value.code == code


def test_an_issuer_that_is_revoked_after_its_path_was_validated_is_refused(known):
    lists = load_revocation_lists(pem(revocation_list("root", 2), revocation_list("ca")), where="crl.pem")
    with pytest.raises(VerificationError) as caught:
        validate_path(CHAIN, replace(known, revocations=lists), at=NOW)
    assert caught.value.code == "certificate_revoked"


def test_another_issuers_list_does_not_revoke_an_equal_serial():
    assert outcome(revocation_list("root", 3), revocation_list("ca")) == "accepted"


@pytest.mark.parametrize(
    "lists",
    [
        pytest.param([ROOTS_LIST], id="no list of the leaf's issuer"),
        pytest.param([revocation_list("ca")], id="no list of the root"),
        pytest.param([ROOTS_LIST, revocation_list("ca", end=-DAY / 2)], id="a stale list"),
        pytest.param([ROOTS_LIST, revocation_list("ca", start=DAY / 2)], id="a list of tomorrow"),
        pytest.param([ROOTS_LIST, revocation_list("ca", signer="rogue")], id="signed by somebody else"),
    ],
)
def test_where_nobody_can_tell_the_path_is_refused(lists):
    assert outcome(*lists) == "revocation_unknown"


def test_a_stale_list_still_revokes():
    assert outcome(ROOTS_LIST, revocation_list("ca", 3, end=-DAY / 2)) == "certificate_revoked"


def test_a_list_that_somebody_else_signed_revokes_nobody():
    assert outcome(ROOTS_LIST, revocation_list("ca"), revocation_list("ca", 3, signer="rogue")) == "accepted"


def test_a_list_is_current_from_its_first_to_its_last_second():
    lists = (ROOTS_LIST, revocation_list("ca"))
    found = [outcome(*lists, at=NOW + shift) for shift in (-DAY, DAY, DAY + timedelta(seconds=1))]
    assert found == ["accepted", "accepted", "revocation_unknown"]


@pytest.mark.parametrize(("crl_sign", "expected"), [(True, "accepted"), (False, "revocation_unknown")])
def test_an_issuers_key_must_be_allowed_to_sign_lists(crl_sign, expected):
    intermediate = certificate("ca", "root", 2, CA, usage(crl_sign=crl_sign))
    lists = (ROOTS_LIST, revocation_list("ca"))
    assert outcome(*lists, chain=(LEAF, intermediate)) == expected


def test_a_signature_is_checked_once_for_each_issuer_and_not_for_each_certificate():
    (own,) = load_revocation_lists(pem(revocation_list("ca")), where="crl.pem")
    assert own.is_signed_by(INTERMEDIATE)
    assert len(own.believed) == 1
    assert own.is_signed_by(INTERMEDIATE)
    assert not own.is_signed_by(ROOT)
    assert len(own.believed) == 1


def test_one_der_list_loads_as_well():
    data = ROOTS_LIST.public_bytes(Encoding.DER)
    assert load_revocation_lists(data, where="crl.der")[0].serials == {99}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"no list", id="text"),
        pytest.param(ROOTS_LIST.public_bytes(Encoding.DER) + b"\0", id="a byte behind"),
        pytest.param(ROOTS_LIST.public_bytes(Encoding.DER)[:-1], id="cut off"),
        pytest.param(pem(ROOTS_LIST)[:-30], id="PEM cut off"),
        pytest.param(pem(ROOT), id="a certificate"),
        pytest.param(pem(*[ROOTS_LIST] * 65), id="too many"),
        pytest.param(pem(revocation_list("ca", extensions=[x509.DeltaCRLIndicator(1)])), id="a delta"),
        pytest.param(
            pem(
                revocation_list(
                    "ca",
                    extensions=[x509.IssuingDistributionPoint(None, None, True, False, None, False, False)],
                )
            ),
            id="for users alone",
        ),
        pytest.param(
            pem(
                revocation_list(
                    "ca",
                    3,
                    entry_extensions=[x509.CertificateIssuer([x509.DirectoryName(name("another"))])],
                )
            ),
            id="indirect",
        ),
    ],
)
def test_what_is_no_complete_list_is_refused_when_it_is_loaded(data):
    with pytest.raises(FormatError, match=r"^crl\.pem"):
        load_revocation_lists(data, where="crl.pem")
