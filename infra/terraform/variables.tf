variable "subscription_id" {
  type        = string
  description = "Where everything is deployed."
}

variable "location" {
  type        = string
  description = "Azure region, for example westeurope."
}

variable "prefix" {
  type        = string
  default     = "edb"
  description = "Begins every name: lower-case letters and digits, a letter first."

  validation {
    condition     = can(regex("^[a-z][a-z0-9]{1,9}$", var.prefix))
    error_message = "Expected 2 to 10 lower-case letters and digits, a letter first."
  }
}

variable "audience" {
  type        = string
  description = "The deployment's id. It is pinned in every CPM and stated in every key release."

  validation {
    condition     = can(regex("^[!-~]{1,64}$", var.audience))
    error_message = "Expected 1 to 64 printable ASCII characters without space."
  }
}

variable "distribute_schedule" {
  type        = string
  default     = "0 */5 * * * *"
  description = "How often every device is looked at, beside the twin events: NCRONTAB with seconds."
}

variable "iot_hub_sku" {
  type        = string
  default     = "S1"
  description = "S1 takes 50 twin updates a second and 400,000 messages a day and unit."

  validation {
    condition     = contains(["S1", "S2", "S3"], var.iot_hub_sku)
    error_message = "Expected S1, S2 or S3."
  }
}

variable "iot_hub_units" {
  type    = number
  default = 1
}

variable "iot_hub_share_percent" {
  type        = number
  default     = 50
  description = "Percent of the hub's rates that the function app takes; what devices do to their twins counts, too."

  validation {
    condition     = var.iot_hub_share_percent >= 1 && var.iot_hub_share_percent <= 100
    error_message = "Expected 1 to 100."
  }
}

variable "maximum_instance_count" {
  type        = number
  default     = 4
  description = "Most instances of each function; all HTTP functions count as one. Each is given its part of the hub's rates."

  validation {
    condition     = var.maximum_instance_count >= 1 && var.maximum_instance_count <= 1000
    error_message = "Expected 1 to 1000."
  }
}

variable "audit_retention_days" {
  type        = number
  default     = 365
  description = "How long nobody, the storage account's owners included, can change or delete a segment of the audit chain."
}

variable "tags" {
  type    = map(string)
  default = {}
}
