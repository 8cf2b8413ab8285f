# The vault: two HSM keys that never leave it, and the class keys, each wrapped under the first.

resource "azurerm_key_vault" "main" {
  name                          = local.compact
  resource_group_name           = azurerm_resource_group.main.name
  location                      = azurerm_resource_group.main.location
  tenant_id                     = data.azurerm_client_config.current.tenant_id
  sku_name                      = "premium"
  rbac_authorization_enabled    = true
  purge_protection_enabled      = true
  soft_delete_retention_days    = 90
  public_network_access_enabled = true
  tags                          = var.tags
}

# Terraform makes keys through the vault itself, so whoever deploys needs this role while deploying.
resource "azurerm_role_assignment" "deployer_makes_keys" {
  scope                = azurerm_key_vault.main.id
  role_definition_name = "Key Vault Crypto Officer"
  principal_id         = data.azurerm_client_config.current.object_id
}

# Class keys rest as JWE under this key; RSA, because a wrapKey of an oct-HSM key can happen outside the vault.
resource "azurerm_key_vault_key" "kek" {
  name         = "class-key-kek"
  key_vault_id = azurerm_key_vault.main.id
  key_type     = "RSA-HSM"
  key_size     = 3072
  key_opts     = ["wrapKey", "unwrapKey"]
  tags         = var.tags

  depends_on = [azurerm_role_assignment.deployer_makes_keys]

  lifecycle {
    prevent_destroy = true
  }
}

# Signs key releases; whoever holds it can make every CPM forget its keys, so it does nothing else.
resource "azurerm_key_vault_key" "release" {
  name         = "release-signing"
  key_vault_id = azurerm_key_vault.main.id
  key_type     = "EC-HSM"
  curve        = "P-256"
  key_opts     = ["sign"]
  tags         = var.tags

  depends_on = [azurerm_role_assignment.deployer_makes_keys]

  lifecycle {
    prevent_destroy = true
  }
}

resource "azurerm_role_assignment" "function_uses_kek" {
  scope                = azurerm_key_vault_key.kek.resource_versionless_id
  role_definition_name = "Key Vault Crypto User"
  principal_id         = azurerm_user_assigned_identity.function.principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_role_assignment" "function_uses_release_key" {
  scope                = azurerm_key_vault_key.release.resource_versionless_id
  role_definition_name = "Key Vault Crypto User"
  principal_id         = azurerm_user_assigned_identity.function.principal_id
  principal_type       = "ServicePrincipal"
}

# Provisioning writes secrets, revoking writes their tags, DeleteKey and RecoverKey soft-delete and recover; no
# narrower built-in role does all. Purge protection keeps it from purging.
resource "azurerm_role_assignment" "function_keeps_class_keys" {
  scope                = azurerm_key_vault.main.id
  role_definition_name = "Key Vault Secrets Officer"
  principal_id         = azurerm_user_assigned_identity.function.principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_monitor_diagnostic_setting" "vault_audit" {
  name                       = "audit"
  target_resource_id         = azurerm_key_vault.main.id
  log_analytics_workspace_id = azurerm_log_analytics_workspace.main.id

  enabled_log {
    category_group = "audit"
  }
}
