"""Twin documents: written as the protocol shows them, read strictly, faults told by their pointer."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from simulators.fleet import Authority, Device

from shared.errors import FormatError
from shared.twin.budget import section_size
from shared.twin.documents import (
    DesiredKeys,
    KeyReport,
    PackageReport,
    desired_patch,
    parse_desired,
    parse_reported,
    reported_identity,
    reported_status,
)
from shared.twin.sections import MAX_PARTS, PART_LENGTH, apply_patch, join_parts, patch_between, split_text
from shared.types import KeyName, WrapAlgorithm

APP = KeyName("my_confidential_app")


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture(scope="module")
def device(authority):
    return Device.make(authority)


class TestReported:
    def test_identity_and_status_come_back_as_they_were_written(self, device, authority):
        keys = {
            APP: KeyReport(version=3, state="installed", kcv=bytes(range(16))),
            KeyName("other"): KeyReport(version=1, state="error", error="unwrap_failed", sequence=7),
        }
        packages = {"vendor.app 1/§": PackageReport(version="1.2.3", state="installed")}
        chain = device.certificates_der + authority.root.public_bytes(Encoding.DER)
        section = apply_patch(
            {"$version": 4, "temperature": 20},
            reported_identity(spki=device.public_key.spki, certificates_der=chain)
            | reported_status(
                algorithms=[WrapAlgorithm.RSA_OAEP_256, WrapAlgorithm.HPKE_P256],
                fingerprint=device.public_key.fingerprint,
                sequence=1790000000000,
                keys=keys,
                packages=packages,
            ),
        )
        found = parse_reported(section)
        assert found.public_key.spki == device.public_key.spki
        assert len(found.certificates) == 2
        assert found.status.algorithms == (WrapAlgorithm.RSA_OAEP_256, WrapAlgorithm.HPKE_P256)
        assert (found.status.sequence, found.status.keys, found.status.packages) == (
            1790000000000,
            keys,
            packages,
        )

    def test_the_status_looks_as_the_protocol_shows_it(self):
        status = reported_status(
            algorithms=[WrapAlgorithm.RSA_OAEP_256, WrapAlgorithm.HPKE_P256],
            fingerprint=bytes(32),
            sequence=1790000000000,
            keys={APP: KeyReport(version=3, state="installed", kcv=bytes(16))},
            packages={"a.b": PackageReport(version="1.2.3", state="installed")},
        )
        assert status == {
            "confidential_package_status": {
                "v": 2,
                "algs": "RSA-OAEP-256 HPKE-P256",
                "pkf": "00" * 32,
                "seq": 1790000000000,
                "keys": {"my_confidential_app": {"ver": 3, "state": "installed", "kcv": "00" * 16}},
                "packages": {"a%2Eb": {"ver": "1.2.3", "state": "installed"}},
            }
        }

    def test_a_device_that_reports_nothing_is_none_of_ours(self):
        found = parse_reported({"$version": 1})
        assert (found.public_key, found.certificates, found.status) == (None, (), None)

    def test_algorithms_that_are_not_known_here_are_left_out(self, device):
        section = device.report()
        section["confidential_package_status"]["algs"] = "MLKEM768-X25519 HPKE-P256"
        assert parse_reported(section).status.algorithms == (WrapAlgorithm.HPKE_P256,)

    def test_base64_of_older_peers_may_be_wrapped_and_unpadded(self, device):
        text = base64.encodebytes(device.public_key.spki).decode().replace("=", "")
        assert parse_reported({"device_public_key": text}).public_key.spki == device.public_key.spki

    @pytest.mark.parametrize(
        ("path", "value", "pointer"),
        [
            (("v",), 1, "/v"),
            (("v",), True, "/v"),
            (("v",), None, "/v"),
            (("algs",), ["RSA-OAEP-256"], "/algs"),
            (("pkf",), "AA" * 32, "/pkf"),
            (("pkf",), "aa" * 31, "/pkf"),
            (("seq",), -1, "/seq"),
            (("seq",), 1.5, "/seq"),
            (("seq",), 2**52, "/seq"),
            (("keys",), [], "/keys"),
            (("keys",), {"no/name": {}}, "/keys"),
            (("keys", "k"), {"ver": 1, "state": "maybe"}, "/keys/k/state"),
            (("keys", "k"), {"ver": "1", "state": "error"}, "/keys/k/ver"),
            (("keys", "k"), {"ver": 1, "state": "installed", "kcv": "00"}, "/keys/k/kcv"),
            (("keys", "k"), {"ver": 1, "state": "error", "error": 7}, "/keys/k/error"),
            (("keys", "k"), {"ver": 1, "state": "error", "seq": -1}, "/keys/k/seq"),
            (("packages", "p"), {"ver": 1, "state": "installed"}, "/packages/p/ver"),
            (("packages", "%FF"), {"ver": "1", "state": "installed"}, "/packages"),
        ],
    )
    def test_a_fault_is_told_by_its_pointer(self, device, path, value, pointer):
        status = device.status()["confidential_package_status"]
        *parents, last = path
        inner = status
        for name in parents:
            inner = inner[name]
        inner[last] = value
        with pytest.raises(FormatError, match=f"^/confidential_package_status{pointer}:"):
            parse_reported({"confidential_package_status": status})

    @pytest.mark.parametrize(
        "section",
        [
            {"device_public_key": None},
            {"device_public_key": {}},
            {"device_public_key": {"0": "AA", "2": "AA"}},
            {"device_public_key": {"0": 7}},
            {"device_public_key": {str(number): "A" for number in range(9)}},
            {"device_public_key": "-_-_"},
            {"device_cert": "AAAA"},
            {"confidential_package_status": "v2"},
        ],
    )
    def test_what_does_not_parse_is_a_format_error(self, section):
        with pytest.raises(FormatError):
            parse_reported(section)


class TestDesired:
    def test_a_patch_is_read_back(self):
        patch = desired_patch(wrapped={APP: b"wrapped"}, removed=["gone"], release=b"cose")
        assert patch["confidential_package_keys"] == {"gone": None, "my_confidential_app": "d3JhcHBlZA=="}
        section = apply_patch({"confidential_package_keys": {"gone": "AAAA"}}, patch)
        assert parse_desired(section) == DesiredKeys(wrapped={APP: b"wrapped"}, release=b"cose")

    def test_a_long_release_replaces_a_longer_one_without_leaving_a_part(self):
        section: dict[str, object] = {}
        for length in (20000, 9000, 100, 12000):
            release = bytes(length)
            section = apply_patch(section, desired_patch(wrapped={}, removed=[], release=release))
            assert parse_desired(section).release == release

    def test_without_a_release_it_is_the_contract_of_version_1(self):
        section = apply_patch({}, desired_patch(wrapped={APP: b"w"}, removed=[], release=None))
        assert section == {"confidential_package_keys": {"my_confidential_app": "dw=="}}
        assert parse_desired(section).release is None

    @pytest.mark.parametrize(
        "section",
        [
            {"confidential_package_keys": "all"},
            {"confidential_package_keys": {"k": 1}},
            {"confidential_package_keys": {"k": ""}},
            {"confidential_package_keys": {"k": "A" * 2000}},
            {"confidential_package_keys": {"../k": "AAAA"}},
            {"confidential_package_release": "AAAA"},
            {"confidential_package_release": {"v": 1, "cose": "AAAA"}},
            {"confidential_package_release": {"v": 2}},
        ],
    )
    def test_what_does_not_parse_is_a_format_error(self, section):
        with pytest.raises(FormatError):
            parse_desired(section)

    def test_a_release_too_long_for_a_twin_is_refused(self):
        with pytest.raises(FormatError):
            desired_patch(wrapped={}, removed=[], release=bytes(MAX_PARTS * PART_LENGTH))


class TestSections:
    @pytest.mark.parametrize("length", [0, 1, PART_LENGTH, PART_LENGTH + 1, MAX_PARTS * PART_LENGTH])
    def test_text_survives_being_split(self, length):
        text = "ab" * (length // 2) + "c" * (length % 2)
        section = apply_patch({}, {"text": split_text(text)})
        assert join_parts(section["text"], where="text") == text

    @pytest.mark.parametrize(
        ("current", "wanted", "patch"),
        [
            ({}, {}, {}),
            ({"a": 1, "$version": 3}, {"a": 1}, {}),
            ({"a": 1}, {}, {"a": None}),
            ({"a": 1}, {"a": True}, {"a": True}),
            ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, {"a": {"c": None}}),
            ({"a": "text"}, {"a": {"b": 1}}, {"a": {"b": 1}}),
            ({"a": {"b": 1}}, {"a": "text"}, {"a": "text"}),
        ],
    )
    def test_the_patch_between_two_sections_holds_what_differs_alone(self, current, wanted, patch):
        assert patch_between(current, wanted) == patch
        merged = apply_patch(current, patch)
        assert {name: value for name, value in merged.items() if name != "$version"} == wanted

    def test_sizes_are_counted_as_the_hub_counts_them(self):
        section = {
            "text": "ab\n",
            "é": "é",
            "number": 7,
            "flag": True,
            "none": None,
            "inner": {"x": 1.5},
            "$version": 3,
        }
        assert section_size(section) == (4 + 2) + (2 + 2) + (6 + 8) + (4 + 4) + 4 + (5 + 1 + 8)

    def test_what_no_twin_holds_has_no_size(self):
        with pytest.raises(FormatError):
            section_size({"x": b"bytes"})

    def test_half_of_a_surrogate_pair_counts_as_three_bytes(self):
        assert section_size({"\ud83d": "\udfff"}) == 3 + 3
