// The function app's storage: its package, the host's leases and checkpoints, the work queues, the release
// policy, and the audit chain, which nobody can change or delete while its retention lasts.
param location string
param name string
param tags object
param functionPrincipalId string
param auditRetentionDays int

var blobDataOwner = 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'
var queueDataContributor = '974c5e8b-45b9-4653-ba55-5f855dd0fb88'
var packageContainer = 'app-package'
var policyContainer = 'release-policy'
var auditContainer = 'audit'

resource account 'Microsoft.Storage/storageAccounts@2026-04-01' = {
  name: name
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: {
    name: 'Standard_ZRS'
  }
  properties: {
    allowSharedKeyAccess: false
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    defaultToOAuthAuthentication: true
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
  }
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2026-04-01' = {
  parent: account
  name: 'default'
}

resource package 'Microsoft.Storage/storageAccounts/blobServices/containers@2026-04-01' = {
  parent: blobs
  name: packageContainer
  properties: {
    publicAccess: 'None'
  }
}

resource policy 'Microsoft.Storage/storageAccounts/blobServices/containers@2026-04-01' = {
  parent: blobs
  name: policyContainer
  properties: {
    publicAccess: 'None'
  }
}

resource audit 'Microsoft.Storage/storageAccounts/blobServices/containers@2026-04-01' = {
  parent: blobs
  name: auditContainer
  properties: {
    publicAccess: 'None'
  }
}

// Segments may grow and may not be changed. Lock the policy once it has proved itself: then it cannot be taken off.
resource auditIsKept 'Microsoft.Storage/storageAccounts/blobServices/containers/immutabilityPolicies@2026-04-01' = {
  parent: audit
  name: 'default'
  properties: {
    immutabilityPeriodSinceCreationInDays: auditRetentionDays
    allowProtectedAppendWrites: true
  }
}

resource queues 'Microsoft.Storage/storageAccounts/queueServices@2026-04-01' = {
  parent: account
  name: 'default'
}

resource passes 'Microsoft.Storage/storageAccounts/queueServices/queues@2026-04-01' = {
  parent: queues
  name: 'distribute-passes'
}

resource pages 'Microsoft.Storage/storageAccounts/queueServices/queues@2026-04-01' = {
  parent: queues
  name: 'distribute-pages'
}

// Where the Functions host puts what fails on them again and again.
resource passesSetAside 'Microsoft.Storage/storageAccounts/queueServices/queues@2026-04-01' = {
  parent: queues
  name: 'distribute-passes-poison'
}

resource pagesSetAside 'Microsoft.Storage/storageAccounts/queueServices/queues@2026-04-01' = {
  parent: queues
  name: 'distribute-pages-poison'
}

resource functionOwnsBlobs 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: account
  name: guid(account.id, functionPrincipalId, blobDataOwner)
  properties: {
    principalId: functionPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', blobDataOwner)
  }
}

resource functionUsesQueues 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: account
  name: guid(account.id, functionPrincipalId, queueDataContributor)
  properties: {
    principalId: functionPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', queueDataContributor)
  }
}

output accountName string = account.name
output policyBlobUri string = '${account.properties.primaryEndpoints.blob}${policyContainer}/policy.json'
output auditContainerUri string = '${account.properties.primaryEndpoints.blob}${auditContainer}'
output packageContainerUri string = '${account.properties.primaryEndpoints.blob}${packageContainer}'
