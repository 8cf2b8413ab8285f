// The whole deployment in one resource group: what the function app needs, and nobody's secret.
// Every connection is made by a managed identity; shared keys are off wherever the service lets them be.
targetScope = 'resourceGroup'

@description('Where everything is deployed.')
param location string = resourceGroup().location

@description('Begins every name: lower-case letters and digits, a letter first.')
@minLength(2)
@maxLength(10)
param prefix string = 'edb'

@description('The deployment\'s id. It is pinned in every CPM and stated in every key release.')
@minLength(1)
@maxLength(64)
param audience string

@description('How often every device is looked at, beside the twin events: NCRONTAB with seconds.')
param distributeSchedule string = '0 */5 * * * *'

@description('Size of the IoT Hub; S1 takes 50 twin updates a second and 400,000 messages a day and unit.')
@allowed(['S1', 'S2', 'S3'])
param iotHubSku string = 'S1'

@minValue(1)
@maxValue(200)
param iotHubUnits int = 1

@description('Percent of the hub\'s rates that the function app takes; what devices do to their twins counts, too.')
@minValue(1)
@maxValue(100)
param iotHubSharePercent int = 50

@description('Most instances of each function; all HTTP functions count as one. Each is given its part of the hub\'s rates.')
@minValue(1)
@maxValue(1000)
param maximumInstanceCount int = 4

@description('How long nobody, the storage account\'s owners included, can change or delete a segment of the audit chain.')
@minValue(1)
@maxValue(146000)
param auditRetentionDays int = 365

param tags object = {}

var suffix = uniqueString(resourceGroup().id)
var name = '${prefix}-${suffix}'

module identity 'modules/identity.bicep' = {
  name: 'identity'
  params: {
    location: location
    name: name
    tags: tags
  }
}

module monitoring 'modules/monitoring.bicep' = {
  name: 'monitoring'
  params: {
    location: location
    name: name
    tags: tags
    functionPrincipalId: identity.outputs.functionPrincipalId
  }
}

module keyVault 'modules/key-vault.bicep' = {
  name: 'key-vault'
  params: {
    location: location
    name: take('${prefix}${suffix}', 24)
    tags: tags
    functionPrincipalId: identity.outputs.functionPrincipalId
    workspaceId: monitoring.outputs.workspaceId
  }
}

module storage 'modules/storage.bicep' = {
  name: 'storage'
  params: {
    location: location
    name: take('${prefix}${suffix}', 24)
    tags: tags
    functionPrincipalId: identity.outputs.functionPrincipalId
    auditRetentionDays: auditRetentionDays
  }
}

module eventHubs 'modules/event-hubs.bicep' = {
  name: 'event-hubs'
  params: {
    location: location
    name: name
    tags: tags
    functionPrincipalId: identity.outputs.functionPrincipalId
    hubPrincipalId: identity.outputs.hubPrincipalId
  }
}

module iotHub 'modules/iot-hub.bicep' = {
  name: 'iot-hub'
  params: {
    location: location
    name: name
    tags: tags
    sku: iotHubSku
    units: iotHubUnits
    hubIdentityId: identity.outputs.hubIdentityId
    functionPrincipalId: identity.outputs.functionPrincipalId
    twinEventsEndpointUri: eventHubs.outputs.endpointUri
    twinEventsHub: eventHubs.outputs.twinEventsHub
  }
}

module functionApp 'modules/function-app.bicep' = {
  name: 'function-app'
  params: {
    location: location
    name: name
    tags: tags
    identityId: identity.outputs.functionIdentityId
    identityClientId: identity.outputs.functionClientId
    storageAccountName: storage.outputs.accountName
    packageContainerUri: storage.outputs.packageContainerUri
    insightsConnectionString: monitoring.outputs.insightsConnectionString
    twinEventsNamespace: eventHubs.outputs.namespaceHost
    maximumInstanceCount: maximumInstanceCount
    appSettings: {
      EDB_AUDIENCE: audience
      EDB_KEY_VAULT_URL: keyVault.outputs.vaultUri
      EDB_KEK_NAME: keyVault.outputs.kekName
      EDB_RELEASE_KEY_NAME: keyVault.outputs.releaseKeyName
      EDB_IOT_HUB_HOSTNAME: iotHub.outputs.hostName
      EDB_IOT_HUB_TIER: iotHubSku
      EDB_IOT_HUB_UNITS: string(iotHubUnits)
      EDB_IOT_HUB_SHARE_PERCENT: string(iotHubSharePercent)
      EDB_KEY_VAULT_SHARE_PERCENT: '80'
      // Two functions work on twins, each on instances of its own: pages of a pass, and twin events.
      EDB_MAX_INSTANCES: string(2 * maximumInstanceCount)
      EDB_POLICY_BLOB_URL: storage.outputs.policyBlobUri
      EDB_AUDIT_CONTAINER_URL: storage.outputs.auditContainerUri
      EDB_TRUSTED_ROOTS_FILE: '/home/site/wwwroot/trusted-roots.pem'
      EDB_DISTRIBUTE_SCHEDULE: distributeSchedule
      EDB_TWIN_EVENTS_HUB: eventHubs.outputs.twinEventsHub
    }
  }
}

output functionAppName string = functionApp.outputs.name
output functionAppUrl string = functionApp.outputs.url
output iotHubHostName string = iotHub.outputs.hostName
output keyVaultUrl string = keyVault.outputs.vaultUri

@description('Its public half is pinned in every CPM: az keyvault key download.')
output releaseKeyName string = keyVault.outputs.releaseKeyName
