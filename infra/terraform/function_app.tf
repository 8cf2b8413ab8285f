# The function app on Flex Consumption. Its settings hold names and addresses, and no key of any kind.
#
# The app itself is made with azapi: azurerm writes an AzureWebJobsStorage connection string of its own into
# every Flex app, also into one that reaches its storage by identity, and the host then tries that one.

locals {
  app_settings = {
    AzureWebJobsStorage__accountName = azurerm_storage_account.main.name
    AzureWebJobsStorage__credential  = "managedidentity"
    AzureWebJobsStorage__clientId    = azurerm_user_assigned_identity.function.client_id

    APPLICATIONINSIGHTS_CONNECTION_STRING     = azurerm_application_insights.main.connection_string
    APPLICATIONINSIGHTS_AUTHENTICATION_STRING = "ClientId=${azurerm_user_assigned_identity.function.client_id};Authorization=AAD"
    AZURE_CLIENT_ID                           = azurerm_user_assigned_identity.function.client_id

    # Threads that wait for hub and vault; one process, for each would take a rate of its own.
    PYTHON_THREADPOOL_THREAD_COUNT = "16"
    FUNCTIONS_WORKER_PROCESS_COUNT = "1"

    EDB_IOT_HUB_TIER            = var.iot_hub_sku
    EDB_IOT_HUB_UNITS           = tostring(var.iot_hub_units)
    EDB_IOT_HUB_SHARE_PERCENT   = tostring(var.iot_hub_share_percent)
    EDB_KEY_VAULT_SHARE_PERCENT = "80"
    # Two functions work on twins, each on instances of its own: pages of a pass, and twin events.
    EDB_MAX_INSTANCES = tostring(2 * var.maximum_instance_count)

    EDB_AUDIENCE            = var.audience
    EDB_KEY_VAULT_URL       = azurerm_key_vault.main.vault_uri
    EDB_KEK_NAME            = azurerm_key_vault_key.kek.name
    EDB_RELEASE_KEY_NAME    = azurerm_key_vault_key.release.name
    EDB_IOT_HUB_HOSTNAME    = azurerm_iothub.main.hostname
    EDB_POLICY_BLOB_URL     = "${azurerm_storage_account.main.primary_blob_endpoint}${azurerm_storage_container.policy.name}/policy.json"
    EDB_AUDIT_CONTAINER_URL = "${azurerm_storage_account.main.primary_blob_endpoint}${azurerm_storage_container.audit.name}"
    EDB_TRUSTED_ROOTS_FILE  = "/home/site/wwwroot/trusted-roots.pem"
    EDB_DISTRIBUTE_SCHEDULE = var.distribute_schedule
    EDB_TWIN_EVENTS_HUB     = azurerm_eventhub.twin_events.name

    EDB_TWIN_EVENTS__fullyQualifiedNamespace = "${azurerm_eventhub_namespace.main.name}.servicebus.windows.net"
    EDB_TWIN_EVENTS__credential              = "managedidentity"
    EDB_TWIN_EVENTS__clientId                = azurerm_user_assigned_identity.function.client_id
  }
}

resource "azurerm_service_plan" "main" {
  name                = local.name
  resource_group_name = azurerm_resource_group.main.name
  location            = azurerm_resource_group.main.location
  os_type             = "Linux"
  sku_name            = "FC1"
  tags                = var.tags
}

resource "azapi_resource" "function_app" {
  type      = "Microsoft.Web/sites@2025-03-01"
  name      = local.name
  parent_id = azurerm_resource_group.main.id
  location  = azurerm_resource_group.main.location
  tags      = var.tags

  identity {
    type         = "UserAssigned"
    identity_ids = [azurerm_user_assigned_identity.function.id]
  }

  body = {
    kind = "functionapp,linux"
    properties = {
      serverFarmId              = azurerm_service_plan.main.id
      httpsOnly                 = true
      keyVaultReferenceIdentity = azurerm_user_assigned_identity.function.id
      siteConfig = {
        minTlsVersion = "1.2"
        http20Enabled = true
        appSettings   = [for name, value in local.app_settings : { name = name, value = value }]
      }
      functionAppConfig = {
        deployment = {
          storage = {
            type  = "blobContainer"
            value = "${azurerm_storage_account.main.primary_blob_endpoint}${azurerm_storage_container.package.name}"
            authentication = {
              type                           = "UserAssignedIdentity"
              userAssignedIdentityResourceId = azurerm_user_assigned_identity.function.id
            }
          }
        }
        runtime = {
          name    = "python"
          version = "3.13"
        }
        scaleAndConcurrency = {
          instanceMemoryMB     = 2048
          maximumInstanceCount = var.maximum_instance_count
        }
      }
    }
  }

  response_export_values = ["properties.defaultHostName"]

  depends_on = [
    azurerm_role_assignment.function_owns_blobs,
    azurerm_role_assignment.function_uses_queues,
  ]
}

# Deployments come by identity as well: no publishing profile opens this app.
resource "azapi_update_resource" "publishing_by_password" {
  for_each = toset(["scm", "ftp"])

  type      = "Microsoft.Web/sites/basicPublishingCredentialsPolicies@2025-03-01"
  name      = each.key
  parent_id = azapi_resource.function_app.id

  body = {
    properties = {
      allow = false
    }
  }
}
