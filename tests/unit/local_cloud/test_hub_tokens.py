import datetime as dt

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from local_cloud.tokens import HUB_AUDIENCE, VAULT_AUDIENCE, mint, verify
from shared.errors import VerificationError


def key_pair():
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public


PRIVATE, PUBLIC = key_pair()


def test_token_tells_who_it_was_minted_for():
    token = mint(PRIVATE, audience=HUB_AUDIENCE, subject="function-app", lifetime=60)

    claims = verify(token, PUBLIC, audience=HUB_AUDIENCE)

    assert claims["sub"] == "function-app"


def refused(token):
    with pytest.raises(VerificationError) as caught:
        verify(token, PUBLIC, audience=HUB_AUDIENCE)
    assert caught.value.code == "token_invalid"
    assert token[:20] not in str(caught.value) or not token
    return True


def test_token_for_another_audience_is_refused():
    assert refused(mint(PRIVATE, audience=VAULT_AUDIENCE, subject="x", lifetime=60))


def test_expired_token_is_refused():
    assert refused(mint(PRIVATE, audience=HUB_AUDIENCE, subject="x", lifetime=-1))


def test_token_of_another_key_is_refused():
    assert refused(mint(key_pair()[0], audience=HUB_AUDIENCE, subject="x", lifetime=60))


def test_token_chooses_no_algorithm_of_its_own():
    claims = {"aud": HUB_AUDIENCE, "sub": "x", "exp": dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)}

    assert refused(jwt.encode(claims, key=None, algorithm="none"))
    assert refused(jwt.encode(claims, key="a shared secret of thirty-two bytes", algorithm="HS256"))


@pytest.mark.parametrize("missing", ["aud", "sub", "exp"])
def test_token_without_a_claim_is_refused(missing):
    claims = {"aud": HUB_AUDIENCE, "sub": "x", "exp": dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)}
    del claims[missing]

    assert refused(jwt.encode(claims, PRIVATE, algorithm="ES256"))


@pytest.mark.parametrize(
    "token", ["", "a.b.c", "\udcff", "x" * 9000], ids=["empty", "dots", "surrogate", "long"]
)
def test_text_that_is_no_token_is_refused(token):
    assert refused(token)
