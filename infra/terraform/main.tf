# The whole deployment in one resource group: what the function app needs, and nobody's secret.
# Every connection is made by a managed identity; shared keys are off wherever the service lets them be.

locals {
  suffix  = substr(sha256("${var.subscription_id}/${var.location}/${var.prefix}"), 0, 12)
  name    = "${var.prefix}-${local.suffix}"
  compact = "${var.prefix}${local.suffix}"
}

data "azurerm_client_config" "current" {}

resource "azurerm_resource_group" "main" {
  name     = local.name
  location = var.location
  tags     = var.tags
}

# What the function app is to the vault, the hub and the queues.
resource "azurerm_user_assigned_identity" "function" {
  name                = "${local.name}-function"
  resource_group_name = azurerm_resource_group.main.name
  location            = azurerm_resource_group.main.location
  tags                = var.tags
}

# What the hub is to Event Hubs.
resource "azurerm_user_assigned_identity" "hub" {
  name                = "${local.name}-hub"
  resource_group_name = azurerm_resource_group.main.name
  location            = azurerm_resource_group.main.location
  tags                = var.tags
}
