"""Where signing keys live: in a PEM file, in Azure Key Vault, in a PKCS#11 token; all behind one port."""
