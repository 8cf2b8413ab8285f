"""Bicep and Terraform deploy the same house: least roles, keys in hardware, identities instead of secrets."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from readers import bicep, deployment, terraform
from readers.deployment import Grant, HsmKey

from functions import distribute_key
from functions.settings import Settings
from shared.errors import SettingsError

INFRA = Path(__file__).resolve().parents[3] / "infra"
BICEP_FILES = sorted((INFRA / "bicep").rglob("*.bicep"))
TERRAFORM_FILES = sorted((INFRA / "terraform").glob("*.tf"))


@pytest.fixture(scope="module", params=["bicep", "terraform"])
def deployed(request):
    if request.param == "bicep":
        return deployment.from_bicep(INFRA / "bicep")
    return deployment.from_terraform(INFRA / "terraform")


def test_identities_have_the_least_roles_over_the_least_scopes_and_no_other(deployed):
    granted = [grant for grant in deployed.grants if grant.principal != "deployer"]

    assert sorted(granted) == sorted(
        [
            Grant("function", "Key Vault Crypto User", "class-key-kek"),
            Grant("function", "Key Vault Crypto User", "release-signing"),
            Grant("function", "Key Vault Secrets Officer", "vault"),
            Grant("function", "IoT Hub Twin Contributor", "iot hub"),
            Grant("function", "Azure Event Hubs Data Receiver", "twin events"),
            Grant("function", "Storage Blob Data Owner", "storage"),
            Grant("function", "Storage Queue Data Contributor", "storage"),
            Grant("function", "Monitoring Metrics Publisher", "insights"),
            Grant("hub", "Azure Event Hubs Data Sender", "twin events"),
        ]
    )


def test_whoever_deploys_may_make_keys_and_nothing_else(deployed):
    own = [grant for grant in deployed.grants if grant.principal == "deployer"]

    assert own in ([], [Grant("deployer", "Key Vault Crypto Officer", "vault")])


def test_two_keys_live_in_hardware_and_each_does_one_thing(deployed):
    assert deployed.keys == {
        "class-key-kek": HsmKey("RSA-HSM", 3072, ("wrapKey", "unwrapKey")),
        "release-signing": HsmKey("EC-HSM", "P-256", ("sign",)),
    }


def test_every_switch_stands_on_the_safe_side(deployed):
    assert deployed.switches == {
        "vault: hardware": "premium",
        "vault: purge protection": True,
        "vault: soft delete days": 90,
        "vault: roles, no access policies": True,
        "vault: audit log": "audit",
        "storage: shared key": False,
        "storage: public blobs": False,
        "storage: https only": True,
        "storage: tls": "TLS1_2",
        "audit: appends only": True,
        "event hubs: shared key": False,
        "iot hub: service shared key": False,
        "iot hub: tls": "1.2",
        "iot hub: identity": "UserAssigned",
        "iot hub: endpoint by": "identityBased",
        "insights: shared key": False,
        "app: https only": True,
        "app: identity": "UserAssigned",
        "app: package by": "UserAssignedIdentity",
        "app: plan": "FC1",
        "app: runtime": ("python", "3.13"),
        "app: publishing by password": {"scm": False, "ftp": False},
    }


def test_twin_changes_reach_the_function_app_and_its_queues_exist(deployed):
    assert deployed.routes == [("TwinChangeEvents", "twin-events")]
    work = {distribute_key.PASSES_QUEUE, distribute_key.PAGES_QUEUE}
    assert deployed.queues == work | {f"{name}-poison" for name in work}


def test_policy_and_audit_have_containers_and_only_the_audit_can_never_be_changed(deployed):
    assert deployed.containers == {"app-package": False, "release-policy": False, "audit": True}


EXAMPLES = {
    "EDB_AUDIENCE": "fleet-a",
    "EDB_KEY_VAULT_URL": "https://edb.vault.azure.net/",
    "EDB_KEK_NAME": "class-key-kek",
    "EDB_RELEASE_KEY_NAME": "release-signing",
    "EDB_IOT_HUB_HOSTNAME": "edb.azure-devices.net",
    "EDB_IOT_HUB_TIER": "S1",
    "EDB_IOT_HUB_UNITS": "1",
    "EDB_IOT_HUB_SHARE_PERCENT": "50",
    "EDB_MAX_INSTANCES": "8",
    "EDB_POLICY_BLOB_URL": "https://edb.blob.core.windows.net/release-policy/policy.json",
    "EDB_AUDIT_CONTAINER_URL": "https://edb.blob.core.windows.net/audit",
    "EDB_DISTRIBUTE_SCHEDULE": "0 */5 * * * *",
    "EDB_TWIN_EVENTS_HUB": "twin-events",
}
"""What the expressions of the settings come to."""


def test_function_app_accepts_the_settings_that_it_is_given(deployed):
    environment = {name: EXAMPLES.get(name, value) for name, value in deployed.app_settings.items()}

    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(environment)

    # The roots come with the app's package, and are not here.
    assert {problem.split(":")[0] for problem in caught.value.problems} == {"EDB_TRUSTED_ROOTS_FILE"}
    assert all("cannot read" in problem for problem in caught.value.problems)


def test_rates_are_shared_by_as_many_instances_as_the_plan_lets_there_be(deployed):
    settings = deployed.app_settings
    limit = deployed.scale_out_limit

    # Of the functions that scale each by itself, two work on twins: pages, and twin events.
    assert settings["EDB_MAX_INSTANCES"].replace(" ", "") in (
        f"string(2*{limit})",
        f"${{tostring(2*{limit})}}",
    )
    assert settings["FUNCTIONS_WORKER_PROCESS_COUNT"] == "1"
    assert 1 <= int(settings["PYTHON_THREADPOOL_THREAD_COUNT"]) <= 32


def test_every_connection_of_the_function_app_is_made_by_its_identity(deployed):
    settings = deployed.app_settings

    for connection in ("AzureWebJobsStorage", "EDB_TWIN_EVENTS"):
        assert settings[f"{connection}__credential"] == "managedidentity"
        assert settings[f"{connection}__clientId"] == settings["AZURE_CLIENT_ID"]
        assert connection not in settings
    assert settings["APPLICATIONINSIGHTS_AUTHENTICATION_STRING"].endswith(";Authorization=AAD")


def test_both_languages_give_the_function_app_the_same_settings():
    one = deployment.from_bicep(INFRA / "bicep").app_settings
    other = deployment.from_terraform(INFRA / "terraform").app_settings

    assert one.keys() == other.keys()
    for name in one:
        literal = not isinstance(one[name], bicep.Expression) and "${" not in one[name]
        assert not literal or one[name] == other[name]


SECRETS = re.compile(
    r"""listKeys|listAccountSas|listServiceSas|listSecrets|SharedAccessKey|AccountKey=|@secure
        |primary_access_key|secondary_access_key|primary_connection_string|secondary_connection_string
        |primary_key|secondary_key|shared_access_policy|instrumentation_key|sas_token|client_secret
        |authorization_rule|authorizationRules|BEGIN\ (RSA|EC|OPENSSH)?\ ?PRIVATE""",
    re.IGNORECASE | re.VERBOSE,
)


@pytest.mark.parametrize("path", [*BICEP_FILES, *TERRAFORM_FILES], ids=lambda path: path.name)
def test_no_file_holds_or_asks_for_a_secret(path):
    assert SECRETS.search(path.read_text()) is None


@pytest.mark.parametrize("text", ["hub.listKeys().value", "x.primary_connection_string", "SharedAccessKey=a"])
def test_search_for_secrets_finds_one(text):
    assert SECRETS.search(text) is not None


API_VERSIONS = {
    "Microsoft.Authorization": "2022-04-01",
    "Microsoft.Devices": "2023-06-30",
    "Microsoft.EventHub": "2026-01-01",
    "Microsoft.Insights/components": "2020-02-02",
    "Microsoft.Insights/diagnosticSettings": "2021-05-01-preview",
    "Microsoft.KeyVault": "2026-02-01",
    "Microsoft.ManagedIdentity": "2024-11-30",
    "Microsoft.OperationalInsights": "2023-09-01",
    "Microsoft.Storage": "2026-04-01",
    "Microsoft.Web": "2025-03-01",
}


@pytest.mark.parametrize("path", BICEP_FILES, ids=lambda path: path.name)
def test_resources_use_the_api_versions_that_are_known_to_work(path):
    for resource in bicep.read(path).resources.values():
        expected = API_VERSIONS.get(resource.type) or API_VERSIONS[resource.type.split("/")[0]]
        assert resource.api_version == expected, resource.symbol


def test_modules_are_given_exactly_the_parameters_that_they_declare():
    main = bicep.read(INFRA / "bicep" / "main.bicep")
    used = {path for path, _ in main.modules.values()}

    for path, body in main.modules.values():
        module = bicep.read(INFRA / "bicep" / path)
        assert set(body["params"]) == set(module.parameters), path
    assert used == {f"modules/{path.name}" for path in (INFRA / "bicep" / "modules").iterdir()}


def test_outputs_that_main_uses_are_declared():
    main = bicep.read(INFRA / "bicep" / "main.bicep")

    for match in re.finditer(r"\b(\w+)\.outputs\.(\w+)", main.path.read_text()):
        module = bicep.read(INFRA / "bicep" / main.modules[match[1]][0])
        assert match[2] in module.outputs, match[0]


def test_bicep_syntax_error_is_noticed(tmp_path):
    broken = tmp_path / "broken.bicep"
    broken.write_text("resource x 'a@b' = {\n  name: \n")

    with pytest.raises(AssertionError, match="syntax error"):
        bicep.read(broken)


def test_terraform_keeps_its_keys_and_refers_only_to_what_there_is():
    module = terraform.read(INFRA / "terraform")

    for key in module.of_type("azurerm_key_vault_key").values():
        assert key["lifecycle"][0]["prevent_destroy"] is True
    text = "\n".join(path.read_text() for path in TERRAFORM_FILES)
    code = re.sub(r"#.*", "", text)
    addresses = set(re.findall(r"(?<![\w.\"])((?:azurerm|azapi)_\w+\.\w+)\.", code))
    assert addresses <= module.resources.keys()
    assert set(re.findall(r"\bvar\.(\w+)", code)) == module.variables.keys()
    assert set(re.findall(r"\blocal\.(\w+)", code)) <= module.local_values.keys()
    assert module.providers["azurerm"]["storage_use_azuread"] is True


@pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")
def test_terraform_is_formatted():
    result = subprocess.run(
        ["terraform", "fmt", "-check", "-diff", str(INFRA / "terraform")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert result.returncode == 0, result.stdout
