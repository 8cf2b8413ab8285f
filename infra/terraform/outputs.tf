output "function_app_name" {
  value = azapi_resource.function_app.name
}

output "function_app_url" {
  value = "https://${azapi_resource.function_app.output.properties.defaultHostName}"
}

output "iot_hub_hostname" {
  value = azurerm_iothub.main.hostname
}

output "key_vault_url" {
  value = azurerm_key_vault.main.vault_uri
}

output "release_key_name" {
  description = "Its public half is pinned in every CPM: az keyvault key download."
  value       = azurerm_key_vault_key.release.name
}

output "resource_group_name" {
  value = azurerm_resource_group.main.name
}
