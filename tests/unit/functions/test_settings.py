"""The function app's settings: all problems told together, nothing guessed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulators.app import environment

from functions.app import build_app
from functions.call_rates import Allowance
from functions.settings import Settings
from shared.errors import SettingsError
from shared.twin.capacity import HubTier


def test_defaults_stand_in_for_names_alone(cloud, tmp_path):
    settings = Settings.from_environment(environment(cloud, tmp_path))
    assert (settings.kek_name, settings.release_key_name) == ("class-key-kek", "release-signing")
    assert settings.key_vault_url == "https://vault.test"
    assert settings.verify_challenge is True
    assert settings.entra_in_front is False


def test_what_is_not_set_asks_for_nothing_more(cloud, tmp_path):
    settings = Settings.from_environment(environment(cloud, tmp_path))
    assert (settings.key_hsm_url, settings.crl_file, settings.class_key_lifetime) == (None, None, None)
    assert settings.trust.revocations == ()


def test_keys_may_live_in_a_managed_hsm_beside_the_vault(cloud, tmp_path):
    values = environment(
        cloud, tmp_path, EDB_KEY_HSM_URL="https://name.managedhsm.azure.net/", EDB_CLASS_KEY_DAYS="90"
    )
    settings = Settings.from_environment(values)
    assert settings.key_hsm_url == "https://name.managedhsm.azure.net"
    assert settings.key_vault_url == "https://vault.test"
    assert settings.class_key_lifetime.days == 90


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EDB_KEY_HSM_URL", "http://name.managedhsm.azure.net"),
        ("EDB_KEY_HSM_URL", "https://name.managedhsm.azure.net/keys"),
        ("EDB_CLASS_KEY_DAYS", "0"),
        ("EDB_CLASS_KEY_DAYS", "-1"),
        ("EDB_CLASS_KEY_DAYS", "36501"),
        ("EDB_CLASS_KEY_DAYS", "ninety"),
        ("EDB_CRL_FILE", "/nowhere/crl.pem"),
    ],
)
def test_an_optional_setting_that_makes_no_sense_is_told(cloud, tmp_path, name, value):
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(environment(cloud, tmp_path, **{name: value}))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{name}: ")


def test_without_settings_of_rates_nothing_is_limited_and_nobody_shares(cloud, tmp_path):
    allowance = Settings.from_environment(environment(cloud, tmp_path)).allowance
    assert (allowance.hub_tier, allowance.vault_share_percent, allowance.instances) == (None, None, 1)


def test_rates_follow_tier_units_shares_instances_and_worker_processes(cloud, tmp_path):
    values = environment(
        cloud,
        tmp_path,
        EDB_IOT_HUB_TIER="S3",
        EDB_IOT_HUB_UNITS="2",
        EDB_KEY_VAULT_SHARE_PERCENT="70",
        EDB_MAX_INSTANCES="8",
        FUNCTIONS_WORKER_PROCESS_COUNT="2",
    )
    assert Settings.from_environment(values).allowance == Allowance(
        hub_tier=HubTier.S3, hub_units=2, hub_share_percent=50, vault_share_percent=70, instances=16
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"EDB_IOT_HUB_TIER": "S1", "EDB_MAX_INSTANCES": None},
        {"EDB_KEY_VAULT_SHARE_PERCENT": "80", "EDB_MAX_INSTANCES": None},
        {"EDB_IOT_HUB_TIER": "S4"},
        {"EDB_IOT_HUB_TIER": "F1", "EDB_IOT_HUB_UNITS": "2"},
        {"EDB_IOT_HUB_TIER": "S1", "EDB_IOT_HUB_UNITS": "0"},
        {"EDB_IOT_HUB_TIER": "S1", "EDB_IOT_HUB_UNITS": "201"},
        {"EDB_IOT_HUB_TIER": "S1", "EDB_IOT_HUB_SHARE_PERCENT": "101"},
        {"EDB_IOT_HUB_TIER": "S1", "EDB_IOT_HUB_SHARE_PERCENT": "80%"},
        {"EDB_IOT_HUB_UNITS": "2"},
        {"EDB_IOT_HUB_SHARE_PERCENT": "50"},
        {"EDB_KEY_VAULT_SHARE_PERCENT": "0"},
        {"EDB_MAX_INSTANCES": "-1"},
        {"FUNCTIONS_WORKER_PROCESS_COUNT": "many"},
    ],
)
def test_a_setting_of_rates_that_makes_no_sense_is_told(cloud, tmp_path, changes):
    values = environment(cloud, tmp_path, **{"EDB_MAX_INSTANCES": "8", **changes})
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(values)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{list(changes)[-1]}: ")


def test_all_problems_are_told_together(cloud, tmp_path):
    values = environment(
        cloud,
        tmp_path,
        EDB_AUDIENCE="with space",
        EDB_KEY_VAULT_URL="http://vault.test",
        EDB_IOT_HUB_HOSTNAME=None,
        EDB_POLICY_FILE=str(tmp_path / "missing.json"),
        EDB_KEK_NAME="under_score",
        EDB_KEY_VAULT_VERIFY_CHALLENGE="maybe",
        EDB_TYPO="1",
    )
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(values)
    told = "\n".join(caught.value.problems)
    for name in (
        "EDB_AUDIENCE",
        "EDB_KEY_VAULT_URL",
        "EDB_IOT_HUB_HOSTNAME: missing",
        "EDB_POLICY_FILE: cannot read",
        "EDB_KEK_NAME",
        "EDB_KEY_VAULT_VERIFY_CHALLENGE",
        "EDB_TYPO: unknown setting",
    ):
        assert name in told
    assert len(caught.value.problems) == 7


@pytest.mark.parametrize(
    ("name", "content"),
    [("EDB_POLICY_FILE", b"{}"), ("EDB_POLICY_FILE", b""), ("EDB_TRUSTED_ROOTS_FILE", b"")],
)
def test_a_malformed_file_is_told_under_its_setting(cloud, tmp_path, name, content):
    values = environment(cloud, tmp_path)
    Path(values[name]).write_bytes(content)
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment(values)


@pytest.mark.parametrize(
    ("file", "url"),
    [("EDB_POLICY_FILE", "EDB_POLICY_BLOB_URL"), ("EDB_AUDIT_FOLDER", "EDB_AUDIT_CONTAINER_URL")],
)
class TestAPlaceInFilesOrBlobs:
    ADDRESS = "https://account.blob.core.windows.net/edb/policy.json"

    def test_a_url_alone_will_do(self, cloud, tmp_path, file, url):
        settings = Settings.from_environment(environment(cloud, tmp_path, **{file: None, url: self.ADDRESS}))
        assert self.ADDRESS in {settings.policy_blob_url, settings.audit_container_url}

    def test_both_are_a_problem(self, cloud, tmp_path, file, url):
        with pytest.raises(SettingsError, match=f"{file}: expected either this or {url}, found both"):
            Settings.from_environment(environment(cloud, tmp_path, **{url: self.ADDRESS}))

    def test_neither_is_a_problem(self, cloud, tmp_path, file, url):
        with pytest.raises(SettingsError, match=f"{file}: expected either this or {url}, found neither"):
            Settings.from_environment(environment(cloud, tmp_path, **{file: None}))

    @pytest.mark.parametrize(
        "address",
        [
            "http://account.blob.core.windows.net/edb/policy.json",
            "https://account.blob.core.windows.net/",
            "https://account.blob.core.windows.net/edb?sig=secret",
        ],
    )
    def test_an_address_that_is_plain_bare_or_holds_a_signature_is_a_problem(
        self, cloud, tmp_path, file, url, address
    ):
        with pytest.raises(SettingsError) as caught:
            Settings.from_environment(environment(cloud, tmp_path, **{file: None, url: address}))
        assert caught.value.problems == [f"{url}: expected https://HOST/PATH without a query"]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "1e3", "soon"])
def test_times_are_whole_seconds(cloud, tmp_path, value):
    with pytest.raises(SettingsError, match="EDB_POLICY_MAX_AGE_SECONDS: expected whole seconds"):
        Settings.from_environment(environment(cloud, tmp_path, EDB_POLICY_MAX_AGE_SECONDS=value))


def test_the_event_connections_parts_are_known(cloud, tmp_path):
    values = environment(
        cloud,
        tmp_path,
        EDB_TWIN_EVENTS__fullyQualifiedNamespace="hub.servicebus.windows.net",
        EDB_TWIN_EVENTS__credential="managedidentity",
    )
    assert Settings.from_environment(values).audience == "fleet-a"


def test_building_the_app_reaches_for_no_cloud(cloud, tmp_path):
    app = build_app(environment(cloud, tmp_path))
    assert {function.get_function_name() for function in app.get_functions()} == {
        "ProvisionKey",
        "ProvisionKeyNamed",
        "ImportKey",
        "ImportKeyPublic",
        "RotateKey",
        "RevokeKey",
        "ChangeRollout",
        "RewrapEnvelopes",
        "DeleteKey",
        "RecoverKey",
        "WrapKey",
        "Keys",
        "Key",
        "Holders",
        "Devices",
        "Device",
        "DeviceModule",
        "RebindDevice",
        "ReconcileDevices",
        "Policy",
        "PublishPolicy",
        "Audit",
        "Health",
        "OpenApi",
        "Ready",
        "DistributeKeyTimer",
        "DistributeKeyPass",
        "DistributeKeyPage",
        "DistributeKeyPagePoison",
        "DistributeKeyPassPoison",
        "DistributeKeyTwinEvents",
        "DistributeKeyVaultEvents",
    }


def test_the_root_module_fails_with_the_problems_and_imports_no_sdk_before(cloud, tmp_path):
    root = Path(__file__).parents[3]
    code = (
        "import sys, function_app;"
        "sys.exit(not {'azure.identity', 'azure.storage', 'opentelemetry'}.isdisjoint(sys.modules))"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("EDB_", "OTEL_"))}

    def start(**settings):
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={**clean, **settings},
            capture_output=True,
            text=True,
            check=False,
        )

    good = start(**environment(cloud, tmp_path))
    assert (good.returncode, good.stderr) == (0, "")
    bad = start()
    assert bad.returncode != 0
    assert "EDB_AUDIENCE: missing; EDB_KEY_VAULT_URL: missing" in bad.stderr
