"""What a deployment grants, keeps and sets, in words that Bicep and Terraform share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from readers import bicep, terraform

if TYPE_CHECKING:
    from pathlib import Path

ROLES = {
    "12338af0-0e69-4776-bea7-57ae8d297424": "Key Vault Crypto User",
    "b86a8fe4-44ce-4948-aee5-eccb2c155cd7": "Key Vault Secrets Officer",
    "494bdba2-168f-4f31-a0a1-191d2f7c028c": "IoT Hub Twin Contributor",
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
    "974c5e8b-45b9-4653-ba55-5f855dd0fb88": "Storage Queue Data Contributor",
    "a638d3c7-ab3a-418d-83e6-5f17a39d4fde": "Azure Event Hubs Data Receiver",
    "2b629674-e913-4c01-ae53-ef4638d8f975": "Azure Event Hubs Data Sender",
    "3913510d-42f4-4e42-8a64-420c390055eb": "Monitoring Metrics Publisher",
}
"""Azure's own role definitions."""


class Grant(NamedTuple):
    """Who has which role over what."""

    principal: str
    role: str
    scope: str


class HsmKey(NamedTuple):
    """A key in the vault."""

    kind: str
    size: int | str
    operations: tuple[str, ...]


@dataclass(frozen=True)
class Deployment:
    """One deployment, whichever language says it.

    ``switches`` holds what must be on or off, by a name; ``app_settings`` are the function app's, with their
    expressions; ``containers`` tells of each whether what is in it can never be changed; ``scale_out_limit``
    is the expression of the most instances.
    """

    grants: list[Grant]
    keys: dict[str, HsmKey]
    switches: dict[str, object]
    app_settings: dict[str, str]
    queues: set[str]
    containers: dict[str, bool]
    routes: list[tuple[str, str]]
    scale_out_limit: str


def from_bicep(folder: Path) -> Deployment:
    """Read ``main.bicep`` and its modules."""
    files = {path.stem: bicep.read(path) for path in sorted((folder / "modules").glob("*.bicep"))}
    main = bicep.read(folder / "main.bicep")
    vault_file, app_file, hub_file = files["key-vault"], files["function-app"], files["iot-hub"]
    vault = vault_file.resources["vault"].body["properties"]
    storage_file = files["storage"]
    account = storage_file.resources["account"].body["properties"]
    app = app_file.resources["app"].body
    hub = hub_file.resources["hub"].body
    endpoint = hub["properties"]["routing"]["endpoints"]["eventHubs"][0]
    package = app["properties"]["functionAppConfig"]["deployment"]["storage"]["authentication"]
    publishing = app_file.of_type("Microsoft.Web/sites/basicPublishingCredentialsPolicies")
    return Deployment(
        grants=[
            _bicep_grant(main, name, file, grant) for name, file in files.items() for grant in _roles(file)
        ],
        keys={
            key.body["name"]: HsmKey(
                key.body["properties"]["kty"],
                key.body["properties"].get("keySize") or key.body["properties"]["curveName"],
                tuple(key.body["properties"]["keyOps"]),
            )
            for key in vault_file.of_type("Microsoft.KeyVault/vaults/keys")
        },
        switches={
            "vault: hardware": vault["sku"]["name"],
            "vault: purge protection": vault["enablePurgeProtection"],
            "vault: soft delete days": vault["softDeleteRetentionInDays"],
            "vault: roles, no access policies": vault["enableRbacAuthorization"],
            "vault: audit log": vault_file.resources["audit"].body["properties"]["logs"][0]["categoryGroup"],
            "storage: shared key": account["allowSharedKeyAccess"],
            "storage: public blobs": account["allowBlobPublicAccess"],
            "storage: https only": account["supportsHttpsTrafficOnly"],
            "storage: tls": account["minimumTlsVersion"],
            "audit: appends only": storage_file.resources["auditIsKept"].body["properties"][
                "allowProtectedAppendWrites"
            ],
            "event hubs: shared key": not files["event-hubs"]
            .resources["namespace"]
            .body["properties"]["disableLocalAuth"],
            "iot hub: service shared key": not hub["properties"]["disableLocalAuth"],
            "iot hub: tls": hub["properties"]["minTlsVersion"],
            "iot hub: identity": hub["identity"]["type"],
            "iot hub: endpoint by": endpoint["authenticationType"],
            "insights: shared key": not files["monitoring"]
            .resources["insights"]
            .body["properties"]["DisableLocalAuth"],
            "app: https only": app["properties"]["httpsOnly"],
            "app: identity": app["identity"]["type"],
            "app: package by": package["type"],
            "app: plan": app_file.resources["plan"].body["sku"]["name"],
            "app: runtime": tuple(app["properties"]["functionAppConfig"]["runtime"].values()),
            "app: publishing by password": {
                policy.body["name"]: policy.body["properties"]["allow"] for policy in publishing
            },
        },
        app_settings={
            **app_file.variables["hostSettings"],
            **main.modules["functionApp"][1]["params"]["appSettings"],
        },
        queues={
            queue.body["name"]
            for queue in files["storage"].of_type("Microsoft.Storage/storageAccounts/queueServices/queues")
        },
        containers={
            _bicep_name(storage_file, container): any(
                kept.body["parent"] == container.symbol
                for kept in storage_file.of_type(f"{_CONTAINER}/immutabilityPolicies")
            )
            for container in storage_file.of_type(_CONTAINER)
        },
        routes=[
            (route["source"], name)
            for route in hub["properties"]["routing"]["routes"]
            for name in route["endpointNames"]
            if route["isEnabled"]
        ],
        scale_out_limit=main.modules["functionApp"][1]["params"][
            app["properties"]["functionAppConfig"]["scaleAndConcurrency"]["maximumInstanceCount"]
        ],
    )


_CONTAINER = "Microsoft.Storage/storageAccounts/blobServices/containers"


def _bicep_name(file: bicep.BicepFile, resource: bicep.Resource) -> str:
    name = resource.body["name"]
    return file.variables.get(name, name)


def _roles(file: bicep.BicepFile) -> list[bicep.Resource]:
    return file.of_type("Microsoft.Authorization/roleAssignments")


def _bicep_grant(main: bicep.BicepFile, module: str, file: bicep.BicepFile, grant: bicep.Resource) -> Grant:
    """Follow the principal through the module's parameter to the identity that main.bicep passes."""
    properties = grant.body["properties"]
    parameters = next(body for path, body in main.modules.values() if path.endswith(f"/{module}.bicep"))[
        "params"
    ]
    principal = re.fullmatch(
        r"identity\.outputs\.(function|hub)PrincipalId", parameters[properties["principalId"]]
    )
    variable = re.search(r"roleDefinitions', (\w+)\)", properties["roleDefinitionId"])
    scope = file.resources[grant.body["scope"]]
    return Grant(principal[1], ROLES[file.variables[variable[1]]], _SCOPES[f"{module}:{scope.symbol}"])


_SCOPES = {
    "key-vault:kek": "class-key-kek",
    "key-vault:releaseKey": "release-signing",
    "key-vault:vault": "vault",
    "storage:account": "storage",
    "event-hubs:twinEvents": "twin events",
    "iot-hub:hub": "iot hub",
    "monitoring:insights": "insights",
    "azurerm_key_vault_key.kek.resource_versionless_id": "class-key-kek",
    "azurerm_key_vault_key.release.resource_versionless_id": "release-signing",
    "azurerm_key_vault.main.id": "vault",
    "azurerm_storage_account.main.id": "storage",
    "azurerm_eventhub.twin_events.id": "twin events",
    "azurerm_iothub.main.id": "iot hub",
    "azurerm_application_insights.main.id": "insights",
}


def from_terraform(folder: Path) -> Deployment:
    """Read the module."""
    module = terraform.read(folder)
    resources = module.resources
    vault, account = resources["azurerm_key_vault.main"], resources["azurerm_storage_account.main"]
    hub, app = resources["azurerm_iothub.main"], resources["azapi_resource.function_app"]
    config = app["body"]["properties"]["functionAppConfig"]
    passwords = resources["azapi_update_resource.publishing_by_password"]
    return Deployment(
        grants=[_terraform_grant(grant) for grant in module.of_type("azurerm_role_assignment").values()],
        keys={
            key["name"]: HsmKey(key["key_type"], key.get("key_size") or key["curve"], tuple(key["key_opts"]))
            for key in module.of_type("azurerm_key_vault_key").values()
        },
        switches={
            "vault: hardware": vault["sku_name"],
            "vault: purge protection": vault["purge_protection_enabled"],
            "vault: soft delete days": vault["soft_delete_retention_days"],
            "vault: roles, no access policies": vault["rbac_authorization_enabled"],
            "vault: audit log": resources["azurerm_monitor_diagnostic_setting.vault_audit"]["enabled_log"][0][
                "category_group"
            ],
            "storage: shared key": account["shared_access_key_enabled"],
            "storage: public blobs": account["allow_nested_items_to_be_public"],
            "storage: https only": account["https_traffic_only_enabled"],
            "storage: tls": account["min_tls_version"],
            "audit: appends only": resources["azurerm_storage_container_immutability_policy.audit"][
                "protected_append_writes_enabled"
            ],
            "event hubs: shared key": resources["azurerm_eventhub_namespace.main"][
                "local_authentication_enabled"
            ],
            "iot hub: service shared key": hub["local_authentication_enabled"],
            "iot hub: tls": hub["min_tls_version"],
            "iot hub: identity": hub["identity"][0]["type"],
            "iot hub: endpoint by": hub["endpoint"][0]["authentication_type"],
            "insights: shared key": not resources["azurerm_application_insights.main"][
                "local_authentication_disabled"
            ],
            "app: https only": app["body"]["properties"]["httpsOnly"],
            "app: identity": app["identity"][0]["type"],
            "app: package by": config["deployment"]["storage"]["authentication"]["type"],
            "app: plan": resources["azurerm_service_plan.main"]["sku_name"],
            "app: runtime": tuple(config["runtime"].values()),
            "app: publishing by password": dict.fromkeys(
                re.findall(r'"(\w+)"', passwords["for_each"]), passwords["body"]["properties"]["allow"]
            ),
        },
        app_settings=dict(module.local_values["app_settings"]),
        queues={queue["name"] for queue in module.of_type("azurerm_storage_queue").values()},
        containers={
            container["name"]: any(
                kept["storage_container_resource_manager_id"] == f"${{{address}.id}}"
                for kept in module.of_type("azurerm_storage_container_immutability_policy").values()
            )
            for address, container in module.of_type("azurerm_storage_container").items()
        },
        routes=[
            (route["source"], name)
            for route in hub["route"]
            for name in route["endpoint_names"]
            if route["enabled"]
        ],
        scale_out_limit=config["scaleAndConcurrency"]["maximumInstanceCount"].strip("${}"),
    )


def _terraform_grant(grant: dict) -> Grant:
    principal = re.fullmatch(
        r"\$\{(?:azurerm_user_assigned_identity\.(\w+)\.principal_id|data\.azurerm_client_config\.\w+\.object_id)\}",
        grant["principal_id"],
    )
    return Grant(principal[1] or "deployer", grant["role_definition_name"], _SCOPES[grant["scope"][2:-1]])
