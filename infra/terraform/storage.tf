# The function app's storage: its package, the host's leases and checkpoints, the work queues, the release
# policy, and the audit chain, which nobody can change or delete while its retention lasts.

resource "azurerm_storage_account" "main" {
  name                             = local.compact
  resource_group_name              = azurerm_resource_group.main.name
  location                         = azurerm_resource_group.main.location
  account_tier                     = "Standard"
  account_replication_type         = "ZRS"
  account_kind                     = "StorageV2"
  shared_access_key_enabled        = false
  default_to_oauth_authentication  = true
  allow_nested_items_to_be_public  = false
  cross_tenant_replication_enabled = false
  https_traffic_only_enabled       = true
  min_tls_version                  = "TLS1_2"
  tags                             = var.tags
}

resource "azurerm_storage_container" "package" {
  name                  = "app-package"
  storage_account_id    = azurerm_storage_account.main.id
  container_access_type = "private"
}

resource "azurerm_storage_container" "policy" {
  name                  = "release-policy"
  storage_account_id    = azurerm_storage_account.main.id
  container_access_type = "private"
}

resource "azurerm_storage_container" "audit" {
  name                  = "audit"
  storage_account_id    = azurerm_storage_account.main.id
  container_access_type = "private"
}

# Segments may grow and may not be changed. Lock the policy once it has proved itself: then it cannot be taken off.
resource "azurerm_storage_container_immutability_policy" "audit" {
  storage_container_resource_manager_id = azurerm_storage_container.audit.id
  immutability_period_in_days           = var.audit_retention_days
  protected_append_writes_enabled       = true
}

resource "azurerm_storage_queue" "passes" {
  name               = "distribute-passes"
  storage_account_id = azurerm_storage_account.main.id
}

resource "azurerm_storage_queue" "pages" {
  name               = "distribute-pages"
  storage_account_id = azurerm_storage_account.main.id
}

# Where the Functions host puts what fails on them again and again.
resource "azurerm_storage_queue" "passes_set_aside" {
  name               = "distribute-passes-poison"
  storage_account_id = azurerm_storage_account.main.id
}

resource "azurerm_storage_queue" "pages_set_aside" {
  name               = "distribute-pages-poison"
  storage_account_id = azurerm_storage_account.main.id
}

resource "azurerm_role_assignment" "function_owns_blobs" {
  scope                = azurerm_storage_account.main.id
  role_definition_name = "Storage Blob Data Owner"
  principal_id         = azurerm_user_assigned_identity.function.principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_role_assignment" "function_uses_queues" {
  scope                = azurerm_storage_account.main.id
  role_definition_name = "Storage Queue Data Contributor"
  principal_id         = azurerm_user_assigned_identity.function.principal_id
  principal_type       = "ServicePrincipal"
}
