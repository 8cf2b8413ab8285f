"""A build machine with a real key pair and certificate."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from simulators.cloud import APP
from simulators.fleet import spki_of


class BuildMachine:
    """A machine that asks WrapKey; ``body`` is what it asks with."""

    def __init__(self, authority, *, private_key=None, uri="urn:cpk:build:ci-1", **validity) -> None:
        self.private_key = private_key or rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.certificate = authority.certify(self.private_key.public_key(), uri=uri, **validity)

    def body(self, **changes):
        values = {
            "key_name": APP,
            "client_public_key": base64.b64encode(spki_of(self.private_key)).decode(),
            "client_cert": self.certificate.public_bytes(Encoding.PEM).decode(),
            **changes,
        }
        return {name: value for name, value in values.items() if value is not None}
