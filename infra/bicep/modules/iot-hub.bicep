// The hub. Services use it by identity alone; devices keep their own keys or certificates.
param location string
param name string
param tags object
param sku string
param units int
param hubIdentityId string
param functionPrincipalId string
param twinEventsEndpointUri string
param twinEventsHub string

var twinContributor = '494bdba2-168f-4f31-a0a1-191d2f7c028c'

resource hub 'Microsoft.Devices/IotHubs@2023-06-30' = {
  name: name
  location: location
  tags: tags
  sku: {
    name: sku
    capacity: units
  }
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${hubIdentityId}': {}
    }
  }
  properties: {
    disableLocalAuth: true
    minTlsVersion: '1.2'
    publicNetworkAccess: 'Enabled'
    routing: {
      endpoints: {
        eventHubs: [
          {
            name: 'twin-events'
            authenticationType: 'identityBased'
            identity: {
              userAssignedIdentity: hubIdentityId
            }
            endpointUri: twinEventsEndpointUri
            entityPath: twinEventsHub
          }
        ]
      }
      routes: [
        {
          name: 'twin-changes'
          source: 'TwinChangeEvents'
          condition: 'true'
          endpointNames: ['twin-events']
          isEnabled: true
        }
      ]
      fallbackRoute: {
        name: 'messages'
        source: 'DeviceMessages'
        condition: 'true'
        endpointNames: ['events']
        isEnabled: true
      }
    }
  }
}

resource functionWritesTwins 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: hub
  name: guid(hub.id, functionPrincipalId, twinContributor)
  properties: {
    principalId: functionPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', twinContributor)
  }
}

output hostName string = hub.properties.hostName
