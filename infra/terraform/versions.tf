terraform {
  required_version = ">= 1.9"

  required_providers {
    azurerm = {
      source  = "hashicorp/azurerm"
      version = ">= 4.55, < 5.0"
    }
    azapi = {
      source  = "Azure/azapi"
      version = ">= 2.4, < 3.0"
    }
  }
}

provider "azapi" {
  subscription_id = var.subscription_id
}

provider "azurerm" {
  subscription_id     = var.subscription_id
  storage_use_azuread = true # the storage account takes no shared key

  features {
    key_vault {
      purge_soft_delete_on_destroy = false # class keys come back, or are purged on purpose
    }
  }
}
