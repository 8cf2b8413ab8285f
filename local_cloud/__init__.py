"""The cloud on one machine: twin hub, key vault and functions host, started by one command.

It serves the unmodified Azure SDKs over real TLS on a loopback address and meets the deployables only as
processes and through ``function_app``.
"""
