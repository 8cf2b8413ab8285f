// Where IoT Hub sends twin changes and the function app reads them.
param location string
param name string
param tags object
param functionPrincipalId string
param hubPrincipalId string

var dataReceiver = 'a638d3c7-ab3a-418d-83e6-5f17a39d4fde'
var dataSender = '2b629674-e913-4c01-ae53-ef4638d8f975'

resource namespace 'Microsoft.EventHub/namespaces@2026-01-01' = {
  name: name
  location: location
  tags: tags
  sku: {
    name: 'Standard'
    tier: 'Standard'
    capacity: 1
  }
  properties: {
    disableLocalAuth: true
    minimumTlsVersion: '1.2'
    isAutoInflateEnabled: true
    maximumThroughputUnits: 10
  }
}

// One instance of the function app reads a partition; the count cannot be raised later.
resource twinEvents 'Microsoft.EventHub/namespaces/eventhubs@2026-01-01' = {
  parent: namespace
  name: 'twin-events'
  properties: {
    partitionCount: 16
    retentionDescription: {
      cleanupPolicy: 'Delete'
      retentionTimeInHours: 24
    }
  }
}

resource functionReceives 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: twinEvents
  name: guid(twinEvents.id, functionPrincipalId, dataReceiver)
  properties: {
    principalId: functionPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', dataReceiver)
  }
}

resource hubSends 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: twinEvents
  name: guid(twinEvents.id, hubPrincipalId, dataSender)
  properties: {
    principalId: hubPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', dataSender)
  }
}

// Whoever uses these waits for this whole module: the hub is made after it may send.
output twinEventsHub string = twinEvents.name
output endpointUri string = 'sb://${name}.servicebus.windows.net'
output namespaceHost string = '${name}.servicebus.windows.net'
