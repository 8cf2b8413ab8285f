"""Signing by cpk-tool as a process: every kind of key, every profile, and with plain openssl elsewhere."""

import hashlib
import json
import os
import pty
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from simulators.soft_token import PIN, SoftToken
from simulators.vault_process import IdentityEndpoint, VaultProcess
from simulators.workshop import CPK_TOOL, make_workshop, tool, write_pair

PASSPHRASE = b"a passphrase that nobody may see"
KEYS = {
    "rsa": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    for name, make in KEYS.items():
        write_pair(folder, name, make())
    write_pair(folder, "sign")
    write_pair(folder, "locked", passphrase=PASSPHRASE)
    key = mldsa.MLDSA65PrivateKey.generate()
    write_pair(folder, "ml-dsa-65", key)
    for name in ("p256", "ml-dsa-65"):
        public = load_pem_private_key((folder / f"{name}.key").read_bytes(), None).public_key()
        for suffix, encoding in (("pem", Encoding.PEM), ("der", Encoding.DER)):
            data = public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
            (folder / f"{name}-public.{suffix}").write_bytes(data)
    (folder / "pass").write_bytes(PASSPHRASE + b"\n")
    return folder


@pytest.fixture
def workshop(tmp_path, pki):
    return make_workshop(tmp_path, pki)


def signed_build(workshop, name, *more, **options):
    signing = ("--sign-key", workshop.pki / f"{name}.key", "--cert", workshop.pki / f"{name}.pem")
    return workshop.build(*signing, *more, signed=False, **options)


def verified(workshop, name, *more):
    """Verify the package, trusting one certificate; return the report."""
    store = ("--key-store", workshop.folder / "keys.json")
    trust = ("--trust", workshop.pki / f"{name}.pem")
    ran = tool("verify", workshop.package, *store, *trust, *more, "--json")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


# ── keys in PEM files, profiles and schemes ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("rsa", "rsa-pkcs1v15"), ("p256", "ecdsa-p256"), ("p384", "ecdsa-p384"), ("ed25519", "ed25519")],
)
def test_the_recommended_profile_signs_with_whatever_key_there_is(workshop, name, scheme):
    built = signed_build(workshop, name, "--profile", "recommended", "--json")

    assert built.returncode == 0, built.stderr
    assert json.loads(built.stdout)["signature_scheme"] == scheme
    report = verified(workshop, name, "--require-package-signature")
    assert report["package_signed"] is True
    assert report["encryption"] == "AES-256-GCM in segments of 1048576 bytes"
    assert report["payload_sha256"] is None


def test_the_post_quantum_profile_signs_with_ml_dsa_and_nothing_else(workshop):
    built = signed_build(workshop, "ml-dsa-65", "--profile", "post-quantum", "--json")
    refused = signed_build(workshop, "p256", "--profile", "post-quantum", "--signature-scheme", "ecdsa-p256")

    assert built.returncode == 0, built.stderr
    assert json.loads(built.stdout)["signature_scheme"] == "ml-dsa-65"
    assert verified(workshop, "ml-dsa-65")["package_signed"] is True
    assert refused.returncode == 1
    assert "profile post-quantum: expected a key that signs ml-dsa-65, found ecdsa-p256" in refused.stderr


def test_the_reference_profile_takes_only_what_its_readers_know(workshop):
    refused = signed_build(workshop, "p256")

    assert refused.returncode == 1
    assert "profile reference: expected a key that signs rsa-pkcs1v15, found ecdsa-p256" in refused.stderr
    assert "hint: choose another --profile" in refused.stderr
    assert not workshop.package.exists()


@pytest.mark.parametrize("encryption", ["aes-gcm", "chacha20-poly1305", "aes-gcm-stream"])
@pytest.mark.parametrize("digest_of", ["payload", "ciphertext"])
def test_schemes_that_are_asked_for_by_name_are_written_and_read(workshop, encryption, digest_of):
    more = ("--encryption", encryption, "--digest-of", digest_of, "--digest", "sha512")

    built = signed_build(workshop, "ed25519", *more)

    assert built.returncode == 0, built.stderr
    verified(workshop, "ed25519")
    manifest = json.loads(tool("inspect", workshop.package, "--json").stdout)["manifest"]
    assert list(manifest["payload"]["enc"]) == [encryption]
    assert list(manifest["payload"]["dig"]) == [
        "sha512" + ("-ciphertext" if digest_of == "ciphertext" else "")
    ]


def test_rsa_pss_and_segment_size_can_be_asked_for(workshop):
    more = ("--signature-scheme", "rsa-pss", "--encryption", "aes-gcm-stream", "--segment-size", "65536")

    assert signed_build(workshop, "rsa", *more).returncode == 0
    assert verified(workshop, "rsa")["encryption"] == "AES-256-GCM in segments of 65536 bytes"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--segment-size", "65536"), "--segment-size: expected with aes-gcm-stream only"),
        (
            ("--encryption", "aes-gcm-stream", "--segment-size", "65537"),
            "--segment-size: expected a power of two from 65536 to 1048576, found 65537",
        ),
        (("--cert-url", "http://x.test/c"), "--cert-url: expected an https:// URL, found 'http://x.test/c'"),
    ],
)
def test_options_that_cannot_be_are_told(workshop, more, message):
    refused = workshop.build(*more)

    assert refused.returncode == 2
    assert refused.stderr == f"cpk-tool: error: {message}\n"


# ── passphrases ───────────────────────────────────────────────────────────────────────────────────────────


def test_an_encrypted_key_opens_with_a_passphrase_from_a_file(workshop):
    built = signed_build(workshop, "locked", "--sign-key-passphrase-file", workshop.pki / "pass")

    assert built.returncode == 0, built.stderr
    verified(workshop, "locked")


def build_command(workshop, *more):
    key, cert = workshop.pki / "locked.key", workshop.pki / "locked.pem"
    command = [CPK_TOOL, "build", "-i", workshop.folder / "app.bin", "-o", workshop.package, "-a", "my_app"]
    signing = ["--sign-key", key, "--cert", cert]
    return [*map(str, command), "-k", str(workshop.folder / "keys.json"), *map(str, signing), *more]


def test_an_encrypted_key_opens_with_a_passphrase_from_a_descriptor(workshop):
    reader, writer = os.pipe()
    os.write(writer, PASSPHRASE)
    os.close(writer)

    ran = subprocess.run(
        build_command(workshop, "--sign-key-passphrase-fd", str(reader)), pass_fds=[reader], check=False
    )

    os.close(reader)
    assert ran.returncode == 0
    verified(workshop, "locked")


def test_an_encrypted_key_opens_with_a_passphrase_from_the_terminal_which_shows_nothing(workshop):
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(CPK_TOOL, build_command(workshop))
    shown = b""
    while b"passphrase of the signing key: " not in shown:
        shown += os.read(terminal, 1024)
    os.write(terminal, PASSPHRASE + b"\n")
    while True:
        try:
            part = os.read(terminal, 1024)
        except OSError:  # the other end is gone
            break
        if not part:
            break
        shown += part
    os.close(terminal)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown
    assert PASSPHRASE not in shown
    verified(workshop, "locked")


def test_without_any_way_to_a_passphrase_it_says_which_there_are(workshop):
    ran = subprocess.run(
        build_command(workshop), capture_output=True, text=True, check=False, start_new_session=True
    )

    assert ran.returncode == 2
    assert "there is no terminal to ask for one" in ran.stderr
    assert "hint: give it with --sign-key-passphrase-file or --sign-key-passphrase-fd" in ran.stderr
    assert not workshop.package.exists()


def test_an_encrypted_client_key_opens_too(workshop):
    more = ("--client-key", workshop.pki / "locked.key", "--client-cert", workshop.pki / "locked.pem")
    url = ("-k", "https://127.0.0.1:1/api/WrapKey")

    wrong = workshop.build(*url, *more, "--client-key-passphrase-file", "/dev/null", method=())
    right = workshop.build(
        *url, *more, "--client-key-passphrase-file", workshop.pki / "pass", method=("-e", "http")
    )

    assert "/dev/null: expected a line of 1 to 1024 bytes, found 0" in wrong.stderr
    assert "https://127.0.0.1:1/api/WrapKey: cannot be reached" in right.stderr


# ── certificates ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_certificate_may_be_embedded_in_der(workshop):
    built = signed_build(workshop, "rsa", "--cert", workshop.pki / "rsa.der")

    assert built.returncode == 0, built.stderr
    verified(workshop, "rsa")
    manifest = json.loads(tool("inspect", workshop.package, "--json").stdout)["manifest"]
    assert list(manifest["payload"]["cert"]) == ["embedded-x509-der"]


@pytest.mark.parametrize("encoding", ["pem", "der"])
def test_a_bare_public_key_is_trusted_by_its_pin_alone(workshop, encoding):
    public = workshop.pki / f"p256-public.{encoding}"
    store = ("--key-store", workshop.folder / "keys.json")
    pin = hashlib.sha256((workshop.pki / "p256-public.der").read_bytes()).hexdigest()
    built = signed_build(workshop, "p256", "--profile", "recommended", "--cert", public)

    assert built.returncode == 0, built.stderr
    assert tool("verify", workshop.package, *store, "--pin-key", pin).returncode == 0
    assert tool("verify", workshop.package, *store, "--pin-key", "00" * 32).returncode == 3
    assert tool("verify", workshop.package, *store, "--trust", workshop.pki / "p256.pem").returncode == 3
    assert f"public key with SHA-256 {pin}, ecdsa-p256" in tool("inspect", workshop.package).stdout


def test_a_devices_own_certificate_is_found_by_its_domain(workshop):
    place = ("--cert-domain", "packages.example")
    store = ("--key-store", workshop.folder / "keys.json")
    built = signed_build(workshop, "rsa", *place)

    assert built.returncode == 0, built.stderr
    own = f"packages.example={workshop.pki / 'rsa.pem'}"
    assert tool("verify", workshop.package, *store, "--device-certificate", own).returncode == 0
    other = f"other.example={workshop.pki / 'rsa.pem'}"
    assert tool("verify", workshop.package, *store, "--device-certificate", other).returncode == 3
    assert "the device's own certificate for packages.example" in tool("inspect", workshop.package).stdout


def test_a_certificate_by_url_is_fetched_from_allowed_public_hosts_only(workshop):
    url = "https://localhost.localdomain/packages.pem"
    options = ("--key-store", workshop.folder / "keys.json", "--trust", workshop.pki / "rsa.pem")
    built = signed_build(workshop, "rsa", "--cert-url", url)

    assert built.returncode == 0, built.stderr
    unasked = tool("verify", workshop.package, *options)
    elsewhere = tool("verify", workshop.package, *options, "--fetch-certificate", "example.test")
    assert (unasked.returncode, elsewhere.returncode) == (3, 3)
    assert "which is never fetched here" in unasked.stderr
    assert "localhost.localdomain is not an allowed host" in elsewhere.stderr
    assert url in tool("inspect", workshop.package).stdout


def test_a_key_without_a_certificate_and_one_without_a_key_are_told(workshop):
    alone = workshop.build("--sign-key", workshop.pki / "rsa.key", signed=False)
    other = workshop.build("--cert", workshop.pki / "rsa.pem", signed=False)

    for refused in (alone, other):
        assert refused.returncode == 2
        assert "expected --sign-key and --cert together, found one of them" in refused.stderr


# ── Azure Key Vault ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def vault(tmp_path_factory):
    vault = VaultProcess(tmp_path_factory.mktemp("vault"))
    yield vault
    vault.close()


@pytest.fixture
def vault_environment(vault):
    """The environment in which this machine is one that may sign."""
    endpoint = IdentityEndpoint(vault.operator)
    yield endpoint.environment | {"REQUESTS_CA_BUNDLE": str(vault.ca_file)}
    endpoint.close()


@pytest.mark.parametrize(("name", "create"), [("rsa", "create_rsa_key"), ("p256", "create_ec_key")])
def test_a_key_in_the_vault_signs(workshop, vault, vault_environment, name, create):
    with vault.keys() as keys:
        jwk = getattr(keys, create)(f"packages-{name}").key
    public = workshop.folder / "vault.der"
    public.write_bytes(spki_of(jwk))
    pin = hashlib.sha256(public.read_bytes()).hexdigest()
    key = ("--sign-key", f"{vault.url}/keys/packages-{name}", "--cert", public)
    store = ("-k", workshop.folder / "keys.json")

    built = workshop.build(
        *store,
        *key,
        "--insecure-vault-challenge",
        "--profile",
        "recommended",
        signed=False,
        env=vault_environment,
    )

    assert built.returncode == 0, built.stderr
    assert tool("verify", workshop.package, "--key-store", store[1], "--pin-key", pin).returncode == 0


def spki_of(jwk):
    if jwk.n is not None:
        public = rsa.RSAPublicNumbers(int.from_bytes(jwk.e, "big"), int.from_bytes(jwk.n, "big")).public_key()
    else:
        numbers = (int.from_bytes(jwk.x, "big"), int.from_bytes(jwk.y, "big"))
        public = ec.EllipticCurvePublicNumbers(*numbers, ec.SECP256R1()).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_a_vaults_key_and_another_keys_certificate_are_told_before_anything_is_built(
    workshop, vault, vault_environment
):
    with vault.keys() as keys:
        keys.create_rsa_key("another")
    more = ("--sign-key", f"{vault.url}/keys/another", "--cert", workshop.pki / "rsa.pem")

    refused = workshop.build(
        "-k",
        workshop.folder / "keys.json",
        *more,
        "--insecure-vault-challenge",
        signed=False,
        env=vault_environment,
    )

    assert refused.returncode == 1
    assert "the first certificate is not the signing key's" in refused.stderr


@pytest.mark.parametrize(
    "url", ["https://v.example/keys", "https://v.example/secrets/x", "https://u@v.example/keys/x"]
)
def test_what_names_no_key_of_a_vault_is_told(workshop, url):
    refused = workshop.build("--sign-key", url, "--cert", workshop.pki / "rsa.pem", signed=False)

    assert refused.returncode == 2
    assert "--sign-key: expected https://VAULT/keys/NAME" in refused.stderr


# ── PKCS#11 ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def token(tmp_path_factory, pki):
    token = SoftToken(tmp_path_factory.mktemp("token"))
    for number, name in enumerate(("rsa", "p256", "p384", "ed25519"), start=1):
        token.import_key(pki / f"{name}.key", label=name, key_id=f"{number:02d}")
    (pki / "pin").write_text(f"{PIN}\n")
    return token


@pytest.mark.parametrize("name", ["rsa", "p256", "p384", "ed25519"])
def test_a_key_in_a_token_signs(workshop, token, name):
    signing = ("--sign-key", token.uri(name), "--cert", workshop.pki / f"{name}.pem")
    pin = ("--pin-file", workshop.pki / "pin", "--pkcs11-module", token.module)

    built = workshop.build(
        "-k",
        workshop.folder / "keys.json",
        *signing,
        *pin,
        *("--profile", "recommended"),
        signed=False,
        env=token.environment,
    )

    assert built.returncode == 0, built.stderr
    verified(workshop, name, "--require-package-signature")


def test_library_and_pin_may_stand_in_environment_and_uri(workshop, token):
    uri = f"{token.uri('rsa')}?pin-source=file:{workshop.pki / 'pin'}"
    environment = token.environment | {"CPK_PKCS11_MODULE": token.module}

    built = workshop.build(
        *("-k", workshop.folder / "keys.json", "--sign-key", uri, "--cert", workshop.pki / "rsa.pem"),
        signed=False,
        env=environment,
    )

    assert built.returncode == 0, built.stderr


def test_a_pin_on_the_command_line_is_refused(workshop):
    refused = workshop.build(
        "--sign-key", "pkcs11:object=x?pin-value=8642", "--cert", workshop.pki / "rsa.pem", signed=False
    )

    assert refused.returncode == 2
    assert "8642" not in refused.stderr


# ── elsewhere, with plain openssl ─────────────────────────────────────────────────────────────────────────


def openssl(folder, *arguments):
    subprocess.run(["openssl", *map(str, arguments)], cwd=folder, check=True, capture_output=True)


def told_openssl(workshop, report, name):
    """Run the openssl command that ``digest`` told, with a key's file."""
    line = next(line for line in report.splitlines() if "with openssl" in line)
    arguments = line.split("openssl", 2)[2].split()
    openssl(
        workshop.folder,
        *(str(workshop.pki / f"{name}.key") if word == "sign.key" else word for word in arguments),
    )


@pytest.mark.parametrize("name", ["rsa", "p256", "p384", "ed25519"])
@pytest.mark.parametrize("profile", ["reference", "recommended"])
def test_a_prepared_package_is_signed_by_openssl(workshop, name, profile):
    cert = ("--cert", workshop.pki / f"{name}.pem", "--profile", profile)
    scheme = () if (name, profile) == ("rsa", "reference") else ("--signature-scheme", SCHEMES[name])
    prepared = workshop.folder / "app.prepared"
    built = workshop.build("-o", prepared, "--prepare", *cert, *scheme, signed=False)
    assert built.returncode == 0, built.stderr

    payload = tool("digest", prepared, "-o", "payload.tbs", cwd=workshop.folder)
    told_openssl(workshop, payload.stdout, name)
    signature = ("--signature", "payload.sig")
    package = tool(
        "digest", prepared, "--role", "package", *signature, "-o", "package.tbs", cwd=workshop.folder
    )
    assert package.returncode == 0, package.stderr
    told_openssl(workshop, package.stdout, name)
    signed = tool(
        "sign",
        prepared,
        *("-o", "app.cpk", *signature, "--package-signature", "package.sig"),
        cwd=workshop.folder,
    )

    assert signed.returncode == 0, signed.stderr
    assert signed.stdout.endswith("payload and package signed\n")
    verified(workshop, name, "--require-package-signature")


SCHEMES = {"rsa": "rsa-pss", "p256": "ecdsa-p256", "p384": "ecdsa-p384", "ed25519": "ed25519"}


def test_a_prepared_package_is_refused_by_every_reader(workshop):
    built = workshop.build("--prepare", "--cert", workshop.pki / "sign.pem", signed=False)

    assert built.returncode == 0
    assert "the package is prepared" in built.stderr
    refused = workshop.verify("--json")
    assert refused.returncode == 3
    assert json.loads(refused.stdout)["code"] == "payload_signature_invalid"


def test_a_payload_in_clear_is_signed_by_openssl_before_anything_is_built(workshop):
    openssl(
        workshop.folder,
        *("dgst", "-sha256", "-sign", workshop.pki / "sign.key", "-out", "payload.sig", "app.bin"),
    )

    built = workshop.build(
        "--signature",
        workshop.folder / "payload.sig",
        "--cert",
        workshop.pki / "sign.pem",
        signed=False,
    )

    assert built.returncode == 0, built.stderr
    assert "signed in its payload alone" in built.stderr
    assert workshop.verify().returncode == 0
    assert workshop.verify("--require-package-signature").returncode == 3


def test_the_packages_own_signature_can_follow(workshop):
    cert = ("--cert", workshop.pki / "sign.pem")
    tbs = tool("digest", "-i", "app.bin", *cert, "-o", "payload.tbs", cwd=workshop.folder)
    told_openssl(workshop, tbs.stdout, "sign")
    signature = ("--signature", workshop.folder / "payload.sig")
    prepared = workshop.folder / "app.prepared"
    built = workshop.build(*signature, *cert, "--prepare", "-o", prepared, signed=False)
    assert built.returncode == 0, built.stderr

    package = tool("digest", prepared, "--role", "package", "-o", "package.tbs", cwd=workshop.folder)
    told_openssl(workshop, package.stdout, "sign")
    signed = tool(
        "sign", prepared, "-o", "app.cpk", "--package-signature", "package.sig", cwd=workshop.folder
    )

    assert signed.returncode == 0, signed.stderr
    assert workshop.verify("--require-package-signature").returncode == 0


def test_a_signature_of_another_payload_or_key_is_refused_and_leaves_nothing(workshop):
    (workshop.folder / "other.bin").write_bytes(b"another payload")
    for name, payload in (("rsa", "app.bin"), ("sign", "other.bin")):
        key = workshop.pki / f"{name}.key"
        openssl(workshop.folder, "dgst", "-sha256", "-sign", key, "-out", "payload.sig", payload)

        refused = workshop.build(
            *("--signature", workshop.folder / "payload.sig", "--cert", workshop.pki / "sign.pem"),
            signed=False,
        )

        assert refused.returncode == 3
        assert "payload signature: " in refused.stderr
    assert workshop.names() == ["app.bin", "keys.json", "other.bin", "payload.sig"]


def test_a_key_at_hand_signs_a_prepared_package_without_the_class_key(workshop):
    prepared = workshop.folder / "app.prepared"
    cert = ("--cert", workshop.pki / "p256.pem", "--profile", "recommended")
    assert workshop.build("--prepare", *cert, "-o", prepared, signed=False).returncode == 0
    (workshop.folder / "keys.json").rename(workshop.folder / "elsewhere.json")

    signed = tool("sign", prepared, "-o", workshop.package, "--sign-key", workshop.pki / "p256.key", "--json")

    assert signed.returncode == 0, signed.stderr
    assert json.loads(signed.stdout)["package_signed"] is True
    (workshop.folder / "elsewhere.json").rename(workshop.folder / "keys.json")
    verified(workshop, "p256", "--require-package-signature")


def test_another_key_than_the_prepared_packages_is_refused(workshop):
    prepared = workshop.folder / "app.prepared"
    workshop.build("--prepare", "--cert", workshop.pki / "sign.pem", "-o", prepared, signed=False)

    refused = tool("sign", prepared, "-o", workshop.package, "--sign-key", workshop.pki / "rsa.key")

    assert refused.returncode == 3
    assert not workshop.package.exists()


def test_digest_tells_everything_in_json(workshop):
    told = tool("digest", "-i", workshop.folder / "app.bin", "--cert", workshop.pki / "ed25519.pem", "--json")

    document = json.loads(told.stdout)
    digest = hashlib.sha256(b"the payload").digest()
    assert document["digest"] == digest.hex()
    assert bytes.fromhex(document["to_be_signed"]) == b"CPK-SIG-v1\0payload\0" + digest
    assert document["scheme"] == "ed25519"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected a package, or a payload in -i, found both or neither"),
        (("x", "-i", "y"), "expected a package, or a payload in -i, found both or neither"),
        (("-i", "y"), "-i: expected --cert with the key's certificate, found none"),
        (("-i", "y", "--cert", "c", "--role", "package"), "-i: expected a package for --role package"),
    ],
)
def test_a_digest_of_nothing_is_wrong_usage(arguments, message):
    refused = tool("digest", *arguments)

    assert refused.returncode == 2
    assert message in refused.stderr


# ── reproducible builds ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("name", "profile"), [("sign", "reference"), ("p256", "recommended")])
def test_a_seed_and_a_date_make_the_same_bytes(workshop, name, profile):
    def built(seed, epoch):
        more = ("--profile", profile, "--deterministic-for-tests", seed, "-k", workshop.folder / "keys.json")
        ran = signed_build(workshop, name, *more, env={"SOURCE_DATE_EPOCH": epoch})
        assert ran.returncode == 0, ran.stderr
        assert "give both payloads away" in ran.stderr
        return workshop.package.read_bytes()

    first = built("seed", "1700000000")

    assert built("seed", "1700000000") == first
    assert built("other", "1700000000") != first
    assert built("seed", "1700000001") != first
    verified(workshop, name)


def test_without_the_option_no_two_packages_are_the_same(workshop):
    packages = set()
    for _ in range(2):
        assert workshop.build("--package-version", "1.0.0").returncode == 0
        packages.add(workshop.package.read_bytes()[160:183])  # sealed payload and nonce

    assert len(packages) == 2


def test_signatures_that_differ_every_time_are_not_called_reproducible(workshop):
    refused = signed_build(workshop, "rsa", "--signature-scheme", "rsa-pss", "--deterministic-for-tests", "s")

    assert refused.returncode == 2
    assert "expected signatures that are the same every time, found rsa-pss" in refused.stderr
