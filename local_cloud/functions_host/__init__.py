"""Functions host of the local cloud: runs a Python v2 function app unchanged.

It stands on ``azure.functions`` itself, serves HTTP, timers, queues, twin events and Event Grid, and takes
the place of the platform's managed identity.
"""
