// The vault: two HSM keys that never leave it, and the class keys, each wrapped under the first.
param location string
param name string
param tags object
param functionPrincipalId string
param workspaceId string

var cryptoUser = '12338af0-0e69-4776-bea7-57ae8d297424'
var secretsOfficer = 'b86a8fe4-44ce-4948-aee5-eccb2c155cd7'

resource vault 'Microsoft.KeyVault/vaults@2026-02-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    tenantId: subscription().tenantId
    sku: {
      family: 'A'
      name: 'premium'
    }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 90
    enablePurgeProtection: true
    enabledForDeployment: false
    enabledForDiskEncryption: false
    enabledForTemplateDeployment: false
    publicNetworkAccess: 'Enabled'
  }
}

// Class keys rest as JWE under this key; RSA, because a wrapKey of an oct-HSM key can happen outside the vault.
resource kek 'Microsoft.KeyVault/vaults/keys@2026-02-01' = {
  parent: vault
  name: 'class-key-kek'
  tags: tags
  properties: {
    kty: 'RSA-HSM'
    keySize: 3072
    keyOps: ['wrapKey', 'unwrapKey']
    attributes: {
      enabled: true
      exportable: false
    }
  }
}

// Signs key releases; whoever holds it can make every CPM forget its keys, so it does nothing else.
resource releaseKey 'Microsoft.KeyVault/vaults/keys@2026-02-01' = {
  parent: vault
  name: 'release-signing'
  tags: tags
  properties: {
    kty: 'EC-HSM'
    curveName: 'P-256'
    keyOps: ['sign']
    attributes: {
      enabled: true
      exportable: false
    }
  }
}

resource functionUsesKek 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: kek
  name: guid(kek.id, functionPrincipalId, cryptoUser)
  properties: {
    principalId: functionPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', cryptoUser)
  }
}

resource functionUsesReleaseKey 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: releaseKey
  name: guid(releaseKey.id, functionPrincipalId, cryptoUser)
  properties: {
    principalId: functionPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', cryptoUser)
  }
}

// Provisioning writes secrets, revoking writes their tags, DeleteKey and RecoverKey soft-delete and recover; no
// narrower built-in role does all. Purge protection keeps it from purging.
resource functionKeepsClassKeys 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: vault
  name: guid(vault.id, functionPrincipalId, secretsOfficer)
  properties: {
    principalId: functionPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', secretsOfficer)
  }
}

resource audit 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  scope: vault
  name: 'audit'
  properties: {
    workspaceId: workspaceId
    logs: [
      {
        categoryGroup: 'audit'
        enabled: true
      }
    ]
  }
}

output vaultUri string = vault.properties.vaultUri
output kekName string = kek.name
output releaseKeyName string = releaseKey.name
