"""Custody in a TPM: what it protects, shown on a software TPM, from inside and as a process."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from simulators.cpm_process import Cpm
from simulators.software_tpm import SoftwareTpm
from tpm2_pytss import TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_CC, TPM2_SE, TPMA_OBJECT
from tpm2_pytss.types import (
    TPM2B_DATA,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMT_RSA_DECRYPT,
    TPMT_SYM_DEF_OBJECT,
)

from cpm.custody.choice import TpmChoice, open_custody
from cpm.custody.port import DeviceKeyType
from cpm.custody.tpm_counter import FIRST_INDEX
from cpm.custody.tpm_device import _PARENT, TpmDevice
from cpm.custody.tpm_files import KeyFile, RootFile
from cpm.custody.tpm_pcrs import policy_digest, read_pcrs, selection_of
from shared.errors import Conflict, StorageError, TransportError, VerificationError
from shared.keys.wrapping import WrapContext, wrap_key
from shared.types import Audience, KeyName, Secret, WrapAlgorithm

OAEP = WrapAlgorithm.RSA_OAEP_256
CONTEXT = WrapContext(audience=Audience("a"), device_id="edge-01", name=KeyName("k"), version=1)
MEASURED = hashlib.sha256(b"what an update measures").digest()


@pytest.fixture
def tpm(tmp_path):
    tpm = SoftwareTpm(tmp_path)
    yield tpm
    tpm.stop()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "custody"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def open_tpm(tpm, folder):
    """Open the custody; what was open before is closed, as a TPM serves one connection at a time."""
    opened = []

    def close():
        while opened:
            opened.pop().close()

    def open_again(**choice):
        close()
        choice = TpmChoice(tcti=tpm.tcti, **choice)
        opened.append(open_custody(choice, folder, key_type=DeviceKeyType.RSA2048))
        return opened[-1]

    open_again.close = close
    yield open_again
    close()


def wrapped_for(custody, key=b"k" * 32):
    return wrap_key(Secret(key), custody.public_key, OAEP, context=CONTEXT)


def extended(value: bytes) -> bytes:
    """Return what a PCR of zeros holds after one measurement."""
    return hashlib.sha256(bytes(32) + value).digest()


# ── the device key ────────────────────────────────────────────────────────────────────────────────────────


def test_device_key_was_made_in_the_tpm_and_cannot_leave_it(open_tpm, folder, tpm):
    open_tpm().commit()
    open_tpm.close()
    public, _ = TPM2B_PUBLIC.unmarshal(KeyFile.read(folder).key.public)
    private, _ = TPM2B_PRIVATE.unmarshal(KeyFile.read(folder).key.private)

    bound = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.SENSITIVEDATAORIGIN
    assert public.publicArea.objectAttributes & bound == bound
    assert not public.publicArea.objectAttributes & TPMA_OBJECT.SIGN_ENCRYPT
    with tpm.connected() as esapi:
        parent, *_ = esapi.create_primary(None, _PARENT)
        key = esapi.load(parent, private, public)
        policy = esapi.start_auth_session(
            ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, "aes128cfb", TPM2_ALG.SHA256
        )
        esapi.policy_command_code(policy, TPM2_CC.Duplicate)
        nothing = TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL)
        with pytest.raises(TSS2_Exception, match=r"policy|attributes"):
            esapi.duplicate(key, ESYS_TR.NULL, TPM2B_DATA(), nothing, session1=policy)


def test_other_software_on_the_machine_cannot_use_the_device_key(open_tpm, folder, tpm):
    custody = open_tpm()
    custody.commit()
    wrapped = wrapped_for(custody)
    open_tpm.close()
    public, _ = TPM2B_PUBLIC.unmarshal(KeyFile.read(folder).key.public)
    private, _ = TPM2B_PRIVATE.unmarshal(KeyFile.read(folder).key.private)

    with tpm.connected() as esapi:
        parent, *_ = esapi.create_primary(None, _PARENT)
        key = esapi.load(parent, private, public)
        for auth in (b"", b"guess"):
            esapi.tr_set_auth(key, auth)
            with pytest.raises(TSS2_Exception, match="authorization failure"):
                esapi.rsa_decrypt(key, wrapped, TPMT_RSA_DECRYPT(scheme=TPM2_ALG.NULL))


def test_device_key_decrypts_with_no_padding_but_oaep(open_tpm):
    custody = open_tpm()
    wrapped = wrapped_for(custody)

    with custody._device.use("a raw decryption") as use:
        session = use.session()
        key = use.load(custody._key, session=session, auth=custody._key_auth, where="test")
        with pytest.raises(TSS2_Exception, match=r"scheme|value"):
            use.esapi.rsa_decrypt(key, wrapped, TPMT_RSA_DECRYPT(scheme=TPM2_ALG.RSAES), session1=session)


def test_key_that_no_tpm_made_is_refused(open_tpm, folder, tpm):
    custody = open_tpm()
    custody.commit()
    open_tpm.close()
    with tpm.connected() as esapi:
        parent, *_ = esapi.create_primary(None, _PARENT)
        weak = TPMA_OBJECT.SENSITIVEDATAORIGIN | TPMA_OBJECT.USERWITHAUTH | TPMA_OBJECT.DECRYPT
        template = TPM2B_PUBLIC.parse("rsa2048:oaep-sha256:null", objectAttributes=weak)
        private, public, *_ = esapi.create(parent, TPM2B_SENSITIVE_CREATE(), template)
    planted = KeyFile.read(folder)
    key = type(planted.key)(public=public.marshal(), private=private.marshal())
    KeyFile(parent=planted.parent, key=key).write(folder)

    with pytest.raises(StorageError, match="expected an RSA key for OAEP") as refused:
        open_tpm()
    assert refused.value.code == "state_damaged"


def test_nothing_stays_loaded_whatever_happened(open_tpm, tpm):
    custody = open_tpm()
    custody.commit()
    wrapped = wrapped_for(custody)
    for _ in range(10):  # a TPM has room for three
        custody.unwrap(wrapped, OAEP, context=CONTEXT)
        with pytest.raises(VerificationError):
            custody.unwrap(os.urandom(256), OAEP, context=CONTEXT)
        custody.counter.increment()
    open_tpm.close()

    assert tpm.loaded() == []


def test_neither_class_keys_nor_the_storage_root_cross_the_bus_in_clear(tmp_path, folder):
    tpm = SoftwareTpm(tmp_path, log_level=20)
    try:
        key = os.urandom(32)
        choice = TpmChoice(tcti=tpm.tcti)
        custody = open_custody(choice, folder, key_type=DeviceKeyType.RSA2048)
        custody.commit()
        assert custody.unwrap(wrapped_for(custody, key), OAEP, context=CONTEXT).reveal() == key
        custody.close()
        custody = open_custody(choice, folder, key_type=DeviceKeyType.RSA2048)
        spki, root, auth = (
            custody.public_key.spki,
            custody._storage._root.reveal(),
            custody._key_auth.reveal(),
        )
        custody.close()
    finally:
        tpm.stop()

    bus = tpm.seen_on_the_bus()
    assert spki[-150:-50] in bus  # it was watched: the public key went over it
    for secret in (key, root, auth):
        assert secret not in bus


# ── reset, gone, another ──────────────────────────────────────────────────────────────────────────────────


def test_tpm_that_was_reset_while_the_cpm_ran_serves_on(open_tpm, tpm):
    custody = open_tpm()
    custody.commit()
    wrapped = wrapped_for(custody)
    tpm.restart()

    assert custody.unwrap(wrapped, OAEP, context=CONTEXT).reveal() == b"k" * 32


def test_tpm_that_is_gone_is_no_failure_to_unwrap(open_tpm, tpm):
    custody = open_tpm()
    wrapped = wrapped_for(custody)
    tpm.stop()
    try:
        for _ in range(2):
            with pytest.raises(TransportError) as refused:
                custody.unwrap(wrapped, OAEP, context=CONTEXT)
            assert refused.value.code == "custody_unavailable"
    finally:
        tpm.start()
    assert custody.unwrap(wrapped, OAEP, context=CONTEXT).reveal() == b"k" * 32


def test_folder_of_another_tpm_is_refused(open_tpm, tpm, tmp_path):
    open_tpm().commit()
    open_tpm.close()
    tpm.stop()
    shutil.rmtree(tmp_path / "tpm")
    (tmp_path / "tpm").mkdir()
    tpm.start()

    with pytest.raises(Conflict, match=r"another TPM, or the TPM .* was cleared") as refused:
        open_tpm()
    assert refused.value.code == "state_of_another"


# ── the platform ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pcrs", [(), (7,), (0, 2, 4, 7, 8, 9, 11, 12, 14, 23)])
def test_policy_is_the_one_that_the_tpm_computes(tpm, pcrs):
    tpm.extend(7)
    device = TpmDevice(tpm.tcti)
    digest = policy_digest(read_pcrs(device, pcrs))
    device.close()

    with tpm.connected() as esapi:
        trial = esapi.start_auth_session(
            ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.TRIAL, "aes128cfb", TPM2_ALG.SHA256
        )
        esapi.policy_pcr(trial, None, selection_of(pcrs))
        assert bytes(esapi.policy_get_digest(trial)) == digest
        esapi.flush_context(trial)


def test_storage_root_stays_shut_on_a_platform_that_was_not_approved(open_tpm, tpm, folder):
    custody = open_tpm(pcrs=(4, 7))
    custody.commit()
    sealed = custody.seal(b"content", purpose="p")
    open_tpm.close()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    tpm.extend(4)

    with pytest.raises(StorageError, match=r"PCRs 4,7 do not hold") as refused:
        open_tpm()
    assert refused.value.code == "platform_changed"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert tpm.loaded() == []

    tpm.restart()  # the approved software starts again
    assert open_tpm().unseal(sealed, purpose="p") == b"content"


def test_pcrs_that_were_not_chosen_may_change(open_tpm, tpm):
    open_tpm().commit()
    open_tpm.close()
    tpm.extend(4)

    assert not open_tpm().fresh


def test_policy_over_what_nobody_measures_is_told_in_the_log(open_tpm, tpm, caplog):
    tpm.extend(4)
    open_tpm(pcrs=(4, 7))

    (record,) = [record for record in caplog.records if record.message == "pcrs_unmeasured"]
    assert (record.levelname, record.code) == ("WARNING", "7")


# ── the counter ───────────────────────────────────────────────────────────────────────────────────────────


def test_counter_that_was_removed_is_noticed_and_not_made_again(open_tpm, tpm):
    open_tpm().commit()
    open_tpm.close()
    with tpm.connected() as esapi:
        esapi.nv_undefine_space(esapi.tr_from_tpmpublic(FIRST_INDEX))

    for use in ("read", "increment"):
        with pytest.raises(VerificationError, match="it is missing") as refused:
            getattr(open_tpm().counter, use)()
        assert refused.value.code == "rollback"


@pytest.mark.parametrize("kind", ["counter", "ordinary"])
def test_another_index_in_the_counters_place_is_noticed(open_tpm, tpm, kind):
    open_tpm().commit()
    open_tpm.close()
    with tpm.connected() as esapi:
        index = esapi.tr_from_tpmpublic(FIRST_INDEX)
        public, _ = esapi.nv_read_public(index)
        esapi.nv_undefine_space(index)
        own = type(public)(nvPublic=public.nvPublic)
        attributes = int(public.nvPublic.attributes) & ~0x20000000
        own.nvPublic.attributes = attributes if kind == "counter" else attributes & ~0xF0
        handle = esapi.nv_define_space(b"the attacker's", own)
        if kind == "counter":
            esapi.nv_increment(handle)
        else:
            esapi.nv_write(handle, (1).to_bytes(8, "big"))

    with pytest.raises(VerificationError, match="in its place") as refused:
        open_tpm().counter.read()
    assert refused.value.code == "rollback"


def test_first_start_that_was_cut_off_before_the_counter_goes_on(open_tpm, tpm):
    open_tpm()  # never committed
    open_tpm.close()
    with tpm.connected() as esapi:
        esapi.nv_undefine_space(esapi.tr_from_tpmpublic(FIRST_INDEX))

    custody = open_tpm()
    custody.commit()
    assert custody.counter.read() > 0


def test_two_cpms_of_one_tpm_count_apart(open_tpm, tpm, tmp_path):
    first = open_tpm()
    first.commit()
    before = first.counter.read()
    open_tpm.close()
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    second = open_custody(TpmChoice(tcti=tpm.tcti), other, key_type=DeviceKeyType.RSA2048)
    second.counter.increment()
    second.close()

    assert open_tpm().counter.read() == before


# ── as a process ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def cpm(tpm, tmp_path):
    process = Cpm(folder=tmp_path, custody=f"tpm2:{tpm.tcti}")
    process.start()
    yield process
    process.kill()


def test_release_package_workload_and_restart_on_a_tpm(cpm, tpm):
    assert cpm.apply(1)["applied"] is True
    assert cpm.install_and_run().stdout == "ran\n"
    assert cpm.call("device_public_key")["algorithms"] == ["RSA-OAEP-256"]
    before = cpm.call("status")
    assert cpm.stop() == 0
    tpm.restart()
    cpm.start()

    assert cpm.call("status") == before


def test_killed_at_any_moment_it_starts_again(cpm):
    for sequence in (1, 2, 3):
        cpm.apply(sequence)
        cpm.kill()
        cpm.start()
        assert cpm.call("status")["sequence"] == sequence


def test_old_copy_of_the_state_folder_is_refused(cpm):
    cpm.apply(1)
    assert cpm.stop() == 0
    shutil.copytree(cpm.state, cpm.folder / "copy")
    cpm.start()
    cpm.apply(2)
    assert cpm.stop() == 0
    shutil.move(cpm.state, cpm.folder / "newest")
    shutil.copytree(cpm.folder / "copy", cpm.state)

    refused = cpm.refused()

    assert refused.returncode == 3
    assert "it is not the newest state of this device" in refused.stderr
    shutil.rmtree(cpm.state)
    shutil.move(cpm.folder / "newest", cpm.state)
    cpm.start()
    assert cpm.call("status")["sequence"] == 2


def test_copy_of_the_folder_without_its_keys_is_refused(cpm):
    """An old root with an old state, and no device key: a new one must not make the old state good."""
    assert cpm.stop() == 0
    (cpm.state / "device-key.tpm").unlink()
    copy = (cpm.state / "state.sealed").read_bytes()
    cpm.start()
    assert cpm.stop() == 0
    (cpm.state / "state.sealed").write_bytes(copy)

    refused = cpm.refused()
    assert (refused.returncode, "newest state" in refused.stderr) == (3, True)


def test_update_is_announced_and_the_state_before_it_is_given_up_afterwards(cpm, tpm):
    cpm.apply(1)
    fingerprint = cpm.call("status")["fingerprint"]
    assert "another cpm uses the state folder" in reseal(cpm).stderr
    assert cpm.stop() == 0
    announced = reseal(cpm, "--expect", f"7={extended(MEASURED).hex()}")
    assert announced.stdout == "sealed to PCRs 7 as they are now, and to 1 more\n"

    cpm.start()  # not updated yet
    assert cpm.stop() == 0
    tpm.extend(7, MEASURED)
    cpm.start()  # updated
    status = cpm.call("status")
    assert (status["fingerprint"], status["sequence"]) == (fingerprint, 1)
    assert cpm.stop() == 0
    assert reseal(cpm).stdout == "sealed to PCRs 7 as they are now\n"
    cpm.start()
    assert cpm.stop() == 0

    tpm.restart()  # the software of before
    refused = cpm.refused()
    assert (refused.returncode, "PCRs 7 do not hold" in refused.stderr) == (1, True)
    assert "hint: start the software that was approved" in refused.stderr


def test_reseal_moves_to_other_pcrs_and_refuses_what_it_cannot_do(cpm, tpm):
    assert cpm.stop() == 0
    before = RootFile.read(cpm.state)
    for words, status, message in [
        (("--expect", "4=" + "00" * 32), 1, "PCRs [4] are none of those"),
        (("--expect", "7=00"), 2, "expected N=HEX"),
        (("--tpm-pcrs", "24"), 2, "expected PCRs of 0 to 23"),
        (("--custody", "software"), 2, "expected tpm2[:TCTI], found software"),
        (("--state", str(cpm.folder / "none")), 1, "no such state folder"),
    ]:
        refused = reseal(cpm, *words)
        assert (refused.returncode, message in refused.stderr) == (status, True), refused.stderr
    assert RootFile.read(cpm.state) == before

    assert reseal(cpm, "--tpm-pcrs", "4,2").stdout == "sealed to PCRs 2,4 as they are now\n"
    tpm.extend(7)
    cpm.start()


def test_tpm_that_is_not_there_is_told_with_what_to_look_at(tmp_path):
    missing = Cpm(folder=tmp_path, custody=f"tpm2:swtpm:path={tmp_path}/none").refused()

    assert missing.returncode == 1
    assert "opening" in missing.stderr or "reading PCRs" in missing.stderr or "looking" in missing.stderr
    assert "hint: is the TPM there" in missing.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--custody", "tpm2", "--key-type", "p256"), "--custody tpm2: expected --key-type rsa2048, rsa3072"),
        (("--custody", "tpm2:"), "--custody: expected software, tpm2[:TCTI] or pkcs11:URI"),
        (("--custody", "hsm"), "--custody: expected software, tpm2[:TCTI] or pkcs11:URI"),
        (("--tpm-pcrs", "7,x"), "--tpm-pcrs: expected PCRs of 0 to 23"),
        (("--custody", "pkcs11:token=t;object=o?pin-value=1234"), "expected no PIN on the command line"),
        (("--custody", "pkcs11:token=t;id=%01"), "expected object=LABEL"),
    ],
)
def test_wrong_custody_is_told_with_the_other_settings(tmp_path, words, message):
    process = Cpm(folder=tmp_path, custody="software")

    refused = process.refused(*words)

    assert (refused.returncode, message in refused.stderr) == (2, True), refused.stderr
    assert "1234" not in refused.stderr
    assert not Path(process.state).exists()


def reseal(cpm, *words):
    return cpm.run("reseal", "--state", str(cpm.state), "--custody", cpm.custody, *words)
