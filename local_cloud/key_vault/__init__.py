"""Key vault of the local cloud: keys and secrets over HTTPS, as the unmodified Azure SDKs speak it.

Keys live in software, in an SQLite file of its owner's: it stands for Azure Key Vault, and protects like a
file.
"""
