"""Key check values."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
from pathlib import Path

import pytest

from shared.keys.kcv import KCV_LABEL, key_check_value
from shared.keys.wrapping import WRAP_LABEL, WrapContext
from shared.types import Audience, KeyName, Secret

VECTORS = Path(__file__).parents[2] / "vectors" / "release"
CONTEXT = WrapContext(audience=Audience("fleet-a"), device_id="edge-01", name=KeyName("app"), version=1)


def by_hand(key, info):
    """HKDF-SHA256 without salt, one block (RFC 5869 sections 2.2 and 2.3)."""
    extracted = hmac.new(bytes(32), key, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()[:16]


@pytest.mark.parametrize("case", json.loads((VECTORS / "kcv.json").read_text())["cases"])
def test_the_vectors_hold_and_are_what_the_rfc_says(case):
    context = WrapContext(**{name: case[name] for name in ("audience", "device_id", "name", "version")})
    key = bytes.fromhex(case["class_key"])
    assert context.info(KCV_LABEL).hex() == case["kcv_info"]
    assert context.info(WRAP_LABEL).hex() == case["wrap_info"]
    assert key_check_value(Secret(key), context=context).hex() == case["kcv"]
    assert by_hand(key, bytes.fromhex(case["kcv_info"])).hex() == case["kcv"]


def test_a_kcv_is_anothers_for_every_part_of_the_context_and_every_key():
    changes = [{"audience": "b"}, {"device_id": "edge-02"}, {"name": "other"}, {"version": 2}, {}]
    values = {
        key_check_value(Secret(key), context=dataclasses.replace(CONTEXT, **change))
        for change in changes
        for key in (b"k" * 32, b"l" * 32, b"k" * 16)
    }
    assert len(values) == len(changes) * 3
    assert {len(value) for value in values} == {16}
