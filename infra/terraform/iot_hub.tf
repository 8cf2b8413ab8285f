# The hub. Services use it by identity alone; devices keep their own keys or certificates.

resource "azurerm_iothub" "main" {
  name                          = local.name
  resource_group_name           = azurerm_resource_group.main.name
  location                      = azurerm_resource_group.main.location
  local_authentication_enabled  = false
  min_tls_version               = "1.2"
  public_network_access_enabled = true
  tags                          = var.tags

  sku {
    name     = var.iot_hub_sku
    capacity = var.iot_hub_units
  }

  identity {
    type         = "UserAssigned"
    identity_ids = [azurerm_user_assigned_identity.hub.id]
  }

  endpoint {
    type                = "AzureIotHub.EventHub"
    name                = "twin-events"
    authentication_type = "identityBased"
    identity_id         = azurerm_user_assigned_identity.hub.id
    endpoint_uri        = "sb://${azurerm_eventhub_namespace.main.name}.servicebus.windows.net"
    entity_path         = azurerm_eventhub.twin_events.name
    resource_group_name = azurerm_resource_group.main.name
  }

  route {
    name           = "twin-changes"
    source         = "TwinChangeEvents"
    condition      = "true"
    endpoint_names = ["twin-events"]
    enabled        = true
  }

  fallback_route {
    source         = "DeviceMessages"
    condition      = "true"
    endpoint_names = ["events"]
    enabled        = true
  }

  depends_on = [azurerm_role_assignment.hub_sends]
}

resource "azurerm_role_assignment" "function_writes_twins" {
  scope                = azurerm_iothub.main.id
  role_definition_name = "IoT Hub Twin Contributor"
  principal_id         = azurerm_user_assigned_identity.function.principal_id
  principal_type       = "ServicePrincipal"
}
