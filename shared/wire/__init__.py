"""How the parts speak to each other: JSON of the HTTP contracts, CBOR of the CPM channel."""
