"""Who gets in: shared access signatures, CONNECT, topics, throttles, settings."""

import base64
import hmac
import re
from pathlib import Path
from urllib.parse import quote

import pytest

from local_cloud.twin_hub.authentication import ConnectRefusedError, DeviceAuthenticator
from local_cloud.twin_hub.device_topics import GetTwin, MethodAnswer, Telemetry, allowed_filters, parse_topic
from local_cloud.twin_hub.faults import Fault, HubError
from local_cloud.twin_hub.identities import Identity, IdentityRequest
from local_cloud.twin_hub.mqtt_codec import Connect, ReturnCode
from local_cloud.twin_hub.sas import parse_sas, verify_sas
from local_cloud.twin_hub.settings import parse_settings
from local_cloud.twin_hub.throttles import Limit, Operation, Throttles, limits_of_tier
from shared.errors import FormatError, SettingsError, VerificationError
from shared.twin.capacity import HubTier
from shared.types import DeviceId

KEY = base64.b64encode(b"k" * 32).decode()
OTHER = base64.b64encode(b"o" * 32).decode()
NOW = 1_800_000_000


def sas(resource="hub.test/devices/edge-01", *, key=KEY, expires=NOW + 60):
    said = quote(resource, safe="")
    mac = hmac.digest(base64.b64decode(key), f"{said}\n{expires}".encode(), "sha256")
    return f"SharedAccessSignature sr={said}&sig={quote(base64.b64encode(mac), safe='')}&se={expires}"


def check(token, *, keys=(KEY,), resources=("hub.test/devices/edge-01",), now=NOW):
    verify_sas(parse_sas(token), keys=keys, resources=resources, now=now)
    return True


def test_signature_by_either_key_is_accepted():
    assert check(sas(), keys=(OTHER, KEY))
    assert check(sas("HUB.test/devices/edge-01"))


@pytest.mark.parametrize(
    ("token", "options"),
    [
        (sas(key=OTHER), {}),
        (sas(expires=NOW), {}),
        (sas("hub.test/devices/edge-02"), {}),
        (sas("hub.test/devices/EDGE-01"), {}),
        (sas(), {"keys": ()}),
        (sas().replace(f"se={NOW + 60}", f"se={NOW + 61}"), {}),
    ],
    ids=["key", "expired", "resource", "case", "no key", "tampered"],
)
def test_signature_that_does_not_hold_is_rejected(token, options):
    with pytest.raises(VerificationError) as caught:
        check(token, **options)

    assert caught.value.code == "sas_rejected"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "Bearer x",
        "SharedAccessSignature ",
        "SharedAccessSignature sr=a&sig=b",
        sas() + "&se=9",
        sas() + "ü",
        "SharedAccessSignature sr=a&sig=b&se=-1",
        "SharedAccessSignature sr=a&sig=b&se=1&x=" + "y" * 5000,
    ],
)
def test_text_that_is_no_signature_is_refused(token):
    with pytest.raises(FormatError, match="shared access signature"):
        parse_sas(token)


IDENTITIES = {
    key: Identity.create(
        DeviceId(key),
        IdentityRequest.parse({"status": status, "authentication": {"symmetricKey": {"primaryKey": KEY}}}),
    )
    for key, status in [
        ("edge-01", "enabled"),
        ("edge-01/m", "enabled"),
        ("off", "disabled"),
        ("off/m", "enabled"),
    ]
}


def find(key):
    if key not in IDENTITIES:
        raise HubError(Fault.DEVICE_NOT_FOUND, key)
    return IDENTITIES[key]


def admit(client_id="edge-01", *, user=None, password=None):
    authenticator = DeviceAuthenticator(hosts={"hub.test"}, issuers=[], identity=find)
    device, _, module = client_id.partition("/")
    resource = f"hub.test/devices/{device}" + (f"/modules/{module}" if module else "")
    connect = Connect(
        client_id=client_id,
        user_name=f"hub.test/{client_id}/?api-version=2019-10-01" if user is None else user,
        password=sas(resource).encode() if password is None else password,
        clean_session=False,
        keep_alive=60,
    )
    return authenticator.admit(connect, certificate=None, now=NOW)


@pytest.mark.parametrize("client_id", ["edge-01", "edge-01/m"])
def test_client_with_its_own_signature_is_admitted(client_id):
    admitted = admit(client_id)

    assert (admitted.key, admitted.expires_at) == (client_id, NOW + 60)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"user": ""}, ReturnCode.BAD_CREDENTIALS),
        ({"user": "hub.test/edge-01/"}, ReturnCode.BAD_CREDENTIALS),
        ({"user": "hub.test/edge-02/?api-version=2019-10-01"}, ReturnCode.BAD_CREDENTIALS),
        ({"user": "other.test/edge-01/?api-version=2019-10-01"}, ReturnCode.BAD_CREDENTIALS),
        ({"user": "hub.test/edge-01/?" + "a=1&" * 99 + "api-version=1"}, ReturnCode.BAD_CREDENTIALS),
        ({"password": b""}, ReturnCode.NOT_AUTHORIZED),
        ({"password": b"\xff"}, ReturnCode.NOT_AUTHORIZED),
        ({"client_id": "edge-01/m", "password": sas().encode()}, ReturnCode.NOT_AUTHORIZED),
        ({"client_id": "nobody"}, ReturnCode.NOT_AUTHORIZED),
        ({"client_id": "a b"}, ReturnCode.NOT_AUTHORIZED),
        ({"client_id": "off"}, ReturnCode.NOT_AUTHORIZED),
        ({"client_id": "off/m"}, ReturnCode.NOT_AUTHORIZED),
    ],
)
def test_client_that_proves_nothing_is_refused(options, code):
    with pytest.raises(ConnectRefusedError) as caught:
        admit(**options)

    assert caught.value.return_code is code
    assert "sig=" not in str(caught.value)


def test_topics_ask_for_what_they_say():
    key = DeviceId("edge-01/m")

    assert parse_topic("$iothub/twin/GET/?$rid=a%2Fb", key=key) == GetTwin(request_id="a/b")
    assert parse_topic("$iothub/methods/res/-7/?$rid=1", key=key) == MethodAnswer(request_id="1", status=-7)
    assert parse_topic("devices/edge-01/modules/m/messages/events/x=1", key=key) == Telemetry()


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "devices/edge-02/messages/events/",
        "devices/edge-01/messages/events",
        "$iothub/twin/GET",
        "$iothub/twin/PATCH/properties/desired/?$rid=1",
        "$iothub/methods/res/x/?$rid=1",
        "$iothub/methods/res/9999999/?$rid=1",
        "$iothub/twin/GET/?$rid=1&$rid=2",
        "$iothub/twin/GET/?$rid=" + "1" * 200,
    ],
)
def test_topic_of_somebody_else_is_refused(topic):
    with pytest.raises(FormatError, match="topic"):
        parse_topic(topic, key=DeviceId("edge-01"))


def test_wildcards_over_everything_are_not_allowed():
    allowed = allowed_filters(DeviceId("edge-01"))

    assert "devices/edge-01/messages/devicebound/#" in allowed
    assert not {"#", "$iothub/#", "devices/#", "devices/edge-02/messages/devicebound/#"} & set(allowed)


def test_throttle_lets_its_burst_pass_and_fills_again():
    now = [0.0]
    throttles = Throttles(limits_of_tier(HubTier.S1, burst_seconds=1), clock=lambda: now[0])
    for _ in range(50):
        throttles.take(Operation.TWIN_UPDATE)

    with pytest.raises(HubError) as caught:
        throttles.take(Operation.TWIN_UPDATE)
    throttles.take(Operation.TWIN_READ)
    now[0] = 0.02

    assert caught.value.fault is Fault.THROTTLED
    throttles.take(Operation.TWIN_UPDATE)
    with pytest.raises(HubError):
        throttles.take(Operation.TWIN_UPDATE)


def test_throttle_of_its_own_replaces_the_tiers(tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    files = [
        word
        for option in ("--state", "--server-cert", "--server-key", "--service-key-file")
        for word in (option, str(path))
    ]

    settings = parse_settings(
        [*files, "--tier", "S1", "--throttle", "twin-updates=7/2", "--retry-after", "1"]
    )

    assert settings.limits[Operation.TWIN_UPDATE] == Limit(calls=7, seconds=2)
    assert settings.limits[Operation.TWIN_READ] == limits_of_tier(HubTier.S1)[Operation.TWIN_READ]
    assert settings.retry_after == 1


@pytest.mark.parametrize("text", ["twin-updates", "twin-updates=7", "twin-updates=0/2", "writes=7/2", "=7/2"])
def test_throttle_that_makes_no_sense_is_told(tmp_path, text, capsys):
    with pytest.raises(SystemExit):
        parse_settings(["--throttle", text])
    assert f"expected OPERATION=CALLS/SECONDS, found '{text}'" in capsys.readouterr().err


def test_problems_of_the_settings_are_told_together(tmp_path):
    (tmp_path / "key").write_text("not base64")
    files = {name: str(tmp_path / name) for name in ("state", "cert", "key", "missing")}

    with pytest.raises(SettingsError) as caught:
        parse_settings(
            [
                *("--state", files["state"], "--server-cert", files["cert"], "--server-key", files["cert"]),
                *("--service-key-file", files["key"], "--identity-public-key", files["missing"]),
                *("--address", "here", "--mqtt-port", "70000"),
            ]
        )

    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "--address",
        "--mqtt-port",
        "--service-key-file",
        "--identity-public-key",
    ]


def test_service_key_does_not_show_in_the_settings(tmp_path):
    (tmp_path / "key").write_text(KEY + "\n")
    path = str(tmp_path / "key")

    settings = parse_settings(
        ["--state", path, "--server-cert", path, "--server-key", path, "--service-key-file", path]
    )

    assert settings.service_key == KEY
    assert KEY not in repr(settings)


def test_guide_names_every_option(capsys):
    with pytest.raises(SystemExit):
        parse_settings(["--help"])
    options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "twin-hub.md").read_text()

    assert options
    assert set(re.findall(r"`(--[a-z][a-z-]+)", guide)) == options
