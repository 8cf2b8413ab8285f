"""The contract of ``SigningKey``, held by keys in PEM files, in a key vault and in a PKCS#11 token."""

import hashlib
import subprocess

import pkcs11
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from simulators.soft_token import PIN, SoftToken
from simulators.vault_process import VaultProcess

from cpk_tool.passphrase import PassphraseSource
from cpk_tool.signing_keys.key_vault import VaultSigningKey
from cpk_tool.signing_keys.pem import PemSigningKey
from cpk_tool.signing_keys.pkcs11_token import TokenSigningKey
from shared.cpk.signing import Role, SignatureScheme, verify
from shared.errors import EdbError, FormatError, KeyUnavailable, NotFound, TransportError
from shared.pkcs11_uri import Pkcs11Uri
from shared.types import Secret

PRIVATE_KEYS = {
    "rsa2048": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate,
}
IN_A_VAULT = ("rsa2048", "p256", "p384")
IN_A_TOKEN = ("rsa2048", "p256", "p384", "ed25519")
EVERYWHERE = [
    *(("pem", kind) for kind in PRIVATE_KEYS),
    *(("vault", kind) for kind in IN_A_VAULT),
    *(("token", kind) for kind in IN_A_TOKEN),
]


def write_key(path, private_key, encryption=None):
    path.write_bytes(
        private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    )
    return path


def no_passphrase():
    return PassphraseSource(what="passphrase of the signing key", option="--sign-key-passphrase")


@pytest.fixture(scope="module")
def pem_places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return {kind: write_key(folder / f"{kind}.key", make()) for kind, make in PRIVATE_KEYS.items()}


@pytest.fixture(scope="module")
def vault(tmp_path_factory):
    vault = VaultProcess(tmp_path_factory.mktemp("vault"))
    with vault.keys() as keys:
        keys.create_rsa_key("rsa2048", size=2048)
        keys.create_ec_key("p256", curve="P-256")
        keys.create_ec_key("p384", curve="P-384")
        keys.create_ec_key("p521", curve="P-521")
    yield vault
    vault.close()


@pytest.fixture(scope="module")
def token(tmp_path_factory, pem_places):
    with pytest.MonkeyPatch.context() as patch:
        token = SoftToken(tmp_path_factory.mktemp("token"))
        for name, value in token.environment.items():
            patch.setenv(name, value)  # the library reads it once, when it is loaded
        for number, kind in enumerate(IN_A_TOKEN, start=1):
            token.import_key(pem_places[kind], label=kind, key_id=f"{number:02d}")
        yield token


def open_token_key(token, label, *, pin=PIN):
    uri = Pkcs11Uri.parse(token.uri(label), where="--sign-key")
    return TokenSigningKey(uri, module=token.module, pin=lambda: Secret(pin.encode()))


@pytest.fixture
def open_vault_key(vault, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(vault.ca_file))

    def opened(name, *, credential=vault.operator):
        return VaultSigningKey(f"{vault.url}/keys/{name}", credential=credential, verify_challenge=False)

    return opened


@pytest.fixture
def open_key(request, pem_places):
    """Open the key of a kind in a place."""

    def opened(place, kind):
        if place == "pem":
            return PemSigningKey.load(pem_places[kind], no_passphrase())
        if place == "vault":
            return request.getfixturevalue("open_vault_key")(kind)
        return open_token_key(request.getfixturevalue("token"), kind)

    return opened


@pytest.mark.parametrize(("place", "kind"), EVERYWHERE)
@pytest.mark.parametrize("role", list(Role))
def test_a_signature_by_every_scheme_of_the_key_holds_under_its_public_half(open_key, place, kind, role):
    key = open_key(place, kind)

    for scheme in key.public_key.schemes:
        digest = hashlib.new("sha384" if scheme is SignatureScheme.ECDSA_P384 else "sha256", b"x").digest()
        signature = key.sign(scheme, digest, role)

        assert len(signature) == scheme.signature_size(key.public_key.strength)
        verify(key.public_key.key, scheme, signature, digest, role)
    key.close()


@pytest.mark.parametrize(("place", "kind"), [("pem", "p256"), ("vault", "rsa2048"), ("token", "p384")])
def test_closing_a_key_again_does_no_harm(open_key, place, kind):
    key = open_key(place, kind)

    key.close()
    key.close()


@pytest.mark.parametrize("kind", IN_A_TOKEN)
def test_a_token_tells_the_public_half_of_the_key_that_was_put_into_it(token, pem_places, kind):
    key = open_token_key(token, kind)

    assert key.public_key.spki == PemSigningKey.load(pem_places[kind], no_passphrase()).public_key.spki
    key.close()


def test_only_keys_in_memory_sign_reproducibly_with_ecdsa(open_key):
    keys = [open_key(place, "p256") for place in ("pem", "vault", "token")]

    assert [key.is_reproducible for key in keys] == [True, False, False]
    for key in keys:
        key.close()


# ── PEM ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def encrypted_key(tmp_path):
    (tmp_path / "pass").write_text("open sesame\r\nnot this\n")
    return write_key(tmp_path / "k.key", PRIVATE_KEYS["p256"](), BestAvailableEncryption(b"open sesame"))


def test_an_encrypted_key_opens_with_the_first_line_of_a_file(encrypted_key):
    source = PassphraseSource(
        what="passphrase", option="--sign-key-passphrase", file=encrypted_key.with_name("pass")
    )

    assert PemSigningKey.load(encrypted_key, source).public_key.schemes == (SignatureScheme.ECDSA_P256,)


def test_a_wrong_passphrase_is_told_as_such(encrypted_key, tmp_path):
    (tmp_path / "wrong").write_text("secret-guess\n")
    source = PassphraseSource(what="passphrase", option="--x", file=tmp_path / "wrong")

    with pytest.raises(FormatError, match="the passphrase does not open the private key") as caught:
        PemSigningKey.load(encrypted_key, source)
    assert "secret-guess" not in str(caught.value)


def test_a_key_that_openssl_encrypted_opens(tmp_path):
    (tmp_path / "pass").write_text("word\n")
    for number, command in enumerate(
        (
            ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes-256-cbc"],
            ["genrsa", "-traditional", "-aes256"],
        )
    ):
        path = tmp_path / f"{number}.key"
        passphrase = ("-pass" if number == 0 else "-passout", f"file:{tmp_path / 'pass'}")
        subprocess.run(["openssl", *command, *passphrase, "-out", path], check=True, capture_output=True)

        key = PemSigningKey.load(path, PassphraseSource(what="x", option="--x", file=tmp_path / "pass"))
        assert key.public_key.schemes[0] is list(SignatureScheme)[2 if number == 0 else 0]


def test_a_key_that_signs_no_packages_is_refused(tmp_path):
    for key in (ec.generate_private_key(ec.SECP521R1()), rsa.generate_private_key(65537, 1024)):
        with pytest.raises(FormatError, match=r"k: expected RSA of 2048"):
            PemSigningKey.load(write_key(tmp_path / "k", key), no_passphrase())


# ── Key Vault ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_version_that_was_found_signs_even_if_the_key_is_rotated_meanwhile(vault, open_vault_key):
    with vault.keys() as keys:
        keys.create_ec_key("rotated")
        key = open_vault_key("rotated")
        keys.rotate_key("rotated")

    digest = hashlib.sha256(b"x").digest()
    signature = key.sign(SignatureScheme.ECDSA_P256, digest, Role.PAYLOAD)

    verify(key.public_key.key, SignatureScheme.ECDSA_P256, signature, digest, Role.PAYLOAD)
    key.close()


def test_an_older_version_can_be_named(vault, open_vault_key):
    with vault.keys() as keys:
        old = keys.create_ec_key("versions").properties.version
        keys.rotate_key("versions")

    assert open_vault_key(f"versions/{old}").public_key != open_vault_key("versions").public_key


def test_a_vault_refuses_who_may_not_sign(vault, open_vault_key):
    with pytest.raises(KeyUnavailable, match="reading the key: the vault answered 403") as caught:
        open_vault_key("p256", credential=vault.stranger)
    assert caught.value.code == "vault_forbidden"


def test_what_the_vault_does_not_have_is_not_found(open_vault_key):
    with pytest.raises(NotFound, match="keys/none: reading the key: the vault answered 404"):
        open_vault_key("none")


def test_a_vaults_key_that_signs_no_packages_is_refused(open_vault_key):
    with pytest.raises(FormatError, match="expected an RSA key, or an EC key on P-256 or P-384"):
        open_vault_key("p521")


def test_a_vault_does_not_sign_what_it_cannot(open_vault_key):
    key = open_vault_key("p256")
    with pytest.raises(FormatError, match="ed25519, which Key Vault does not sign"):
        key.sign(SignatureScheme.ED25519, bytes(32), Role.PAYLOAD)
    key.close()


def test_an_address_outside_the_challenges_domain_gets_no_token(vault, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(vault.ca_file))

    with pytest.raises(EdbError, match="vault") as caught:
        VaultSigningKey(f"{vault.url}/keys/p256", credential=vault.operator)
    assert caught.value.code == "vault_unavailable"


# ── PKCS#11 ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_refuses_a_wrong_pin(token):
    with pytest.raises(KeyUnavailable, match="the token refused the PIN") as caught:
        open_token_key(token, "p256", pin="0000")
    assert "0000" not in str(caught.value)


def test_a_key_may_be_named_by_its_id(token):
    uri = Pkcs11Uri.parse(f"pkcs11:token={token.LABEL};id=%02?module-path={token.module}", where="--sign-key")

    key = TokenSigningKey(uri, module=None, pin=lambda: Secret(PIN.encode()))

    assert key.public_key.schemes == (SignatureScheme.ECDSA_P256,)
    key.close()


def test_a_token_or_key_that_is_not_there_is_not_found(token):
    with pytest.raises(NotFound, match="the token has no such private key"):
        open_token_key(token, "none")
    with pytest.raises(NotFound, match="no token fits"):
        TokenSigningKey(
            Pkcs11Uri.parse("pkcs11:token=none;object=p256", where="--sign-key"),
            module=token.module,
            pin=lambda: Secret(b""),
        )


def test_a_token_may_keep_no_public_half(token, pem_places):
    token.import_key(pem_places["p256"], label="alone", key_id="77")
    with pkcs11.lib(token.module).get_token(token_label=token.LABEL).open(rw=True, user_pin=PIN) as session:
        session.get_key(object_class=pkcs11.ObjectClass.PUBLIC_KEY, label="alone").destroy()

    key = open_token_key(token, "alone")

    digest = hashlib.sha256(b"x").digest()
    signature = key.sign(SignatureScheme.ECDSA_P256, digest, Role.PACKAGE)
    own = PemSigningKey.load(pem_places["p256"], no_passphrase()).public_key.key
    verify(own, SignatureScheme.ECDSA_P256, signature, digest, Role.PACKAGE)
    assert key.public_key is None
    key.close()


def test_two_keys_of_one_label_are_told_apart_by_id(token, pem_places):
    for key_id in ("81", "82"):
        token.import_key(pem_places["rsa2048"], label="twins", key_id=key_id)

    with pytest.raises(FormatError, match="expected one key that fits, found 2; name its id, too"):
        open_token_key(token, "twins")
    open_token_key(token, "twins;id=%81").close()


def test_a_scheme_that_the_token_does_not_have_is_told(token):
    key = open_token_key(token, "ed25519")

    with pytest.raises(TransportError, match="signing the payload with ml-dsa-65") as caught:
        key.sign(SignatureScheme.ML_DSA_65, bytes(32), Role.PAYLOAD)
    assert caught.value.code == "token_failed"
    key.close()


def test_without_a_library_it_says_how_to_name_one(monkeypatch):
    monkeypatch.delenv("CPK_PKCS11_MODULE", raising=False)
    uri = Pkcs11Uri.parse("pkcs11:object=x", where="--sign-key")

    with pytest.raises(NotFound, match="expected the path of the token's PKCS#11 library") as caught:
        TokenSigningKey(uri, module=None, pin=lambda: Secret(b""))
    assert "--pkcs11-module" in caught.value.hint
    with pytest.raises(NotFound, match=r"pkcs11: /nonexistent\.so: expected a PKCS#11 library"):
        TokenSigningKey(uri, module="/nonexistent.so", pin=lambda: Secret(b""))
