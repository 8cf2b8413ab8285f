"""What every custody keeps: one suite, run on each back end."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from simulators.software_tpm import SoftwareTpm
from simulators.tpm_token import TpmToken

from cpm.custody.choice import SoftwareChoice, TpmChoice, open_custody, parse_custody
from cpm.custody.port import DeviceKeyType
from cpm.custody.software import SoftwareCustody
from shared.errors import Conflict, StorageError, VerificationError
from shared.keys.wrapping import WrapContext, rsa_padding, wrap_key
from shared.public_keys import KeyKind
from shared.types import Audience, KeyName, Secret, WrapAlgorithm

CONTEXT = WrapContext(audience=Audience("a"), device_id="edge-01", name=KeyName("k"), version=1)
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "release" / "wrapped.json").read_text())[
    "cases"
]
KINDS = {
    DeviceKeyType.RSA2048: (KeyKind.RSA, WrapAlgorithm.RSA_OAEP_256),
    DeviceKeyType.RSA3072: (KeyKind.RSA, WrapAlgorithm.RSA_OAEP_256),
    DeviceKeyType.P256: (KeyKind.P256, WrapAlgorithm.HPKE_P256),
    DeviceKeyType.X25519: (KeyKind.X25519, WrapAlgorithm.HPKE_X25519),
}
BACK_ENDS = [
    ("software", DeviceKeyType.RSA2048),
    ("software", DeviceKeyType.P256),
    ("software", DeviceKeyType.X25519),
    ("tpm2", DeviceKeyType.RSA2048),
    ("tpm2", DeviceKeyType.RSA3072),
    ("pkcs11", DeviceKeyType.RSA2048),
]
FILES = {
    "software": ("device.key", "storage.root"),
    "tpm2": ("device-key.tpm", "storage-root.tpm"),
    "pkcs11": ("device-key.pkcs11", "storage-root.pkcs11"),
}


@pytest.fixture(scope="module")
def tpm(tmp_path_factory):
    tpm = SoftwareTpm(tmp_path_factory.mktemp("tpm"))
    yield tpm
    tpm.stop()


@pytest.fixture(scope="module")
def token(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        token = TpmToken(tmp_path_factory.mktemp("token"))
        for name, value in token.environment.items():
            patch.setenv(name, value)  # the library reads it once, when it is loaded
        yield token
        token.close()


@dataclass
class Device:
    """A custody over one folder, opened again and again; a TPM serves one connection at a time."""

    name: str
    key_type: DeviceKeyType
    choice: object
    folder: Path
    opened: list = field(default_factory=list)

    def open(self):
        self.close()
        self.opened.append(open_custody(self.choice, self.folder, key_type=self.key_type))
        return self.opened[-1]

    def close(self):
        while self.opened:
            self.opened.pop().close()

    @property
    def key_file(self):
        return self.folder / FILES[self.name][0]

    @property
    def root_file(self):
        return self.folder / FILES[self.name][1]


@pytest.fixture(params=BACK_ENDS, ids=lambda param: f"{param[0]}-{param[1].value}")
def device(request, tmp_path):
    name, key_type = request.param
    choice = {
        "software": SoftwareChoice,
        "tpm2": lambda: TpmChoice(tcti=request.getfixturevalue("tpm").tcti),
        "pkcs11": lambda: parse_custody(
            request.getfixturevalue("token").uri(os.urandom(4).hex()), pcrs=None, key_type=key_type, where="c"
        ),
    }[name]()
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    device = Device(name=name, key_type=key_type, choice=choice, folder=folder)
    yield device
    device.close()


def test_first_start_makes_a_key_of_the_kind_that_was_asked_for(device):
    custody = device.open()

    kind, algorithm = KINDS[device.key_type]
    assert custody.fresh
    assert custody.public_key.kind is kind
    assert custody.algorithms[0] is algorithm
    if kind is KeyKind.RSA:
        assert custody.public_key.key.key_size == int(device.key_type.value.removeprefix("rsa"))


def test_committed_key_stays_the_same(device):
    custody = device.open()
    custody.commit()
    assert not custody.fresh

    again = device.open()

    assert again.public_key.fingerprint == custody.public_key.fingerprint
    assert not again.fresh


def test_uncommitted_key_is_fresh_again(device):
    first = device.open().public_key.fingerprint

    again = device.open()

    assert again.fresh
    # What a token made rests in the token; elsewhere a key that was not committed never was.
    assert (again.public_key.fingerprint == first) == (device.name == "pkcs11")


@pytest.mark.parametrize("length", [16, 24, 32])
def test_what_was_wrapped_for_it_unwraps(device, length):
    custody = device.open()
    key = Secret(os.urandom(length))
    for algorithm in custody.algorithms:
        wrapped = wrap_key(key, custody.public_key, algorithm, context=CONTEXT)

        assert custody.unwrap(wrapped, algorithm, context=CONTEXT).reveal() == key.reveal()


def test_what_does_not_open_is_one_error_and_what_does_opens_after_it(device, tmp_path):
    other = SoftwareCustody.open(tmp_path, key_type=device.key_type)
    custody = device.open()
    algorithm = custody.algorithms[0]
    key = Secret(os.urandom(32))
    wrapped = wrap_key(key, custody.public_key, algorithm, context=CONTEXT)
    foreign = wrap_key(key, other.public_key, algorithm, context=CONTEXT)

    for bad, how in [
        (foreign, algorithm),
        (foreign[:-1], algorithm),
        (b"", algorithm),
        (os.urandom(len(wrapped)), algorithm),
        (bytes(len(wrapped)), algorithm),
        (b"\xff" * len(wrapped), algorithm),
        (wrapped + b"\0", algorithm),
        (b"\xff" * 100_000, algorithm),
        *((wrapped, how) for how in WrapAlgorithm if how not in custody.algorithms),
    ]:
        with pytest.raises(VerificationError) as refused:
            custody.unwrap(bad, how, context=CONTEXT)
        assert (refused.value.code, str(refused.value)) == (
            "unwrap_failed",
            "the wrapped key does not open for this key",
        )
        assert refused.value.__cause__ is None
    assert custody.unwrap(wrapped, algorithm, context=CONTEXT).reveal() == key.reveal()


def test_rsa_wrapping_of_no_class_key_does_not_unwrap(device):
    custody = device.open()
    if custody.public_key.kind is not KeyKind.RSA:
        assert custody.algorithms in {(WrapAlgorithm.HPKE_P256,), (WrapAlgorithm.HPKE_X25519,)}
        return
    padding = rsa_padding(WrapAlgorithm.RSA_OAEP_256)
    for content in (b"", os.urandom(15), os.urandom(48)):
        with pytest.raises(VerificationError, match="does not open"):
            custody.unwrap(
                custody.public_key.key.encrypt(content, padding), WrapAlgorithm.RSA_OAEP_256, context=CONTEXT
            )


def test_sealed_content_opens_after_a_restart_and_looks_different_every_time(device):
    custody = device.open()
    custody.commit()
    one, other = custody.seal(b"content", purpose="state"), custody.seal(b"content", purpose="state")

    assert one != other
    assert b"content" not in one
    assert device.open().unseal(one, purpose="state") == b"content"


def test_sealed_content_opens_for_no_other_purpose_and_not_when_changed(device):
    custody = device.open()
    sealed = custody.seal(b"content", purpose="state")
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])

    for bad, purpose in ((sealed, "other"), (changed, "state"), (sealed[:10], "state"), (b"", "state")):
        with pytest.raises(StorageError) as refused:
            custody.unseal(bad, purpose=purpose)
        assert refused.value.code == "state_damaged"


def test_counter_rises_by_one_and_outlives_the_connection_where_there_is_one(device):
    custody = device.open()
    custody.commit()
    assert (custody.counter is not None) == (device.name == "tpm2")
    if custody.counter is None:
        return
    before = custody.counter.read()
    custody.counter.increment()

    assert custody.counter.read() == before + 1
    assert device.open().counter.read() == before + 1


def test_files_are_for_their_owner_only(device):
    device.open().commit()

    assert {path.name: path.stat().st_mode & 0o777 for path in device.folder.iterdir()} == dict.fromkeys(
        FILES[device.name], 0o600
    )


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\n", os.urandom(200)])
def test_damaged_device_key_is_refused_and_stays_as_it_is(device, content):
    device.open().commit()
    device.key_file.write_bytes(content)

    with pytest.raises(StorageError) as refused:
        device.open()

    assert refused.value.code == "state_damaged"
    assert device.key_file.read_bytes() == content


def test_damaged_storage_root_is_refused(device):
    device.open().commit()
    device.root_file.write_bytes(b"short")

    with pytest.raises(StorageError) as refused:
        device.open()

    assert refused.value.code == "state_damaged"


def test_device_key_without_its_storage_root_is_refused(device):
    device.open().commit()
    device.root_file.unlink()

    with pytest.raises(StorageError) as refused:
        device.open()

    assert refused.value.code == "state_damaged"


def test_folder_of_another_custody_is_refused(device):
    device.open().commit()
    device.choice = TpmChoice(tcti="none") if device.name == "software" else SoftwareChoice()

    with pytest.raises(Conflict) as refused:
        device.open()

    assert refused.value.code == "state_of_another"


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["algorithm"])
def test_software_custody_opens_the_published_vectors(tmp_path, case):
    private = load_der_private_key(bytes.fromhex(case["private_key"]), None)
    key_file, root_file = (tmp_path / name for name in FILES["software"])
    key_file.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    root_file.write_bytes(os.urandom(32))
    for path in (key_file, root_file):
        path.chmod(0o600)
    context = WrapContext(**{name: case[name] for name in ("audience", "device_id", "name", "version")})

    custody = SoftwareCustody.open(tmp_path, key_type=DeviceKeyType.RSA2048)

    opened = custody.unwrap(bytes.fromhex(case["wrapped"]), WrapAlgorithm(case["algorithm"]), context=context)
    assert opened.reveal().hex() == case["class_key"]
