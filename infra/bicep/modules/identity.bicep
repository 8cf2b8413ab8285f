// Two identities: what the function app is to the vault, the hub and the queues; what the hub is to Event Hubs.
param location string
param name string
param tags object

resource functionIdentity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: '${name}-function'
  location: location
  tags: tags
}

resource hubIdentity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: '${name}-hub'
  location: location
  tags: tags
}

output functionIdentityId string = functionIdentity.id
output functionClientId string = functionIdentity.properties.clientId
output functionPrincipalId string = functionIdentity.properties.principalId
output hubIdentityId string = hubIdentity.id
output hubPrincipalId string = hubIdentity.properties.principalId
