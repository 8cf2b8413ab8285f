# Where IoT Hub sends twin changes and the function app reads them.

resource "azurerm_eventhub_namespace" "main" {
  name                         = local.name
  resource_group_name          = azurerm_resource_group.main.name
  location                     = azurerm_resource_group.main.location
  sku                          = "Standard"
  capacity                     = 1
  auto_inflate_enabled         = true
  maximum_throughput_units     = 10
  local_authentication_enabled = false
  minimum_tls_version          = "1.2"
  tags                         = var.tags
}

# One instance of the function app reads a partition; the count cannot be raised later.
resource "azurerm_eventhub" "twin_events" {
  name            = "twin-events"
  namespace_id    = azurerm_eventhub_namespace.main.id
  partition_count = 16

  retention_description {
    cleanup_policy          = "Delete"
    retention_time_in_hours = 24
  }
}

resource "azurerm_role_assignment" "function_receives" {
  scope                = azurerm_eventhub.twin_events.id
  role_definition_name = "Azure Event Hubs Data Receiver"
  principal_id         = azurerm_user_assigned_identity.function.principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_role_assignment" "hub_sends" {
  scope                = azurerm_eventhub.twin_events.id
  role_definition_name = "Azure Event Hubs Data Sender"
  principal_id         = azurerm_user_assigned_identity.hub.principal_id
  principal_type       = "ServicePrincipal"
}
