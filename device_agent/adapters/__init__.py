"""Where the device agent meets SDKs: one module for each."""
