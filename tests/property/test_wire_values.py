"""What a kind of value's schema allows is what its reader takes, for whatever is tried."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from shared.errors import FormatError
from shared.wire import values

KINDS = {
    name: getattr(values, name)
    for name in (
        *("KEY_NAME", "KEY_PREFIX", "CODE", "PAGE_TOKEN", "VERSION", "STRENGTH"),
        *("KEY_ALGORITHM", "WRAP_ALGORITHM", "IMPORT_ALGORITHM", "TEXT"),
    )
}
WORDS = st.sampled_from(
    ["aes-gcm", "RSA-OAEP-256", "RSA1_5", "HPKE-P256", "256", "app", "key_name", "a" * 65]
)
NUMBERS = st.sampled_from([0, 1, 128, 256, 2**32 - 1, 2**32, -1, True, False, 1.5])
ANYTHING = st.one_of(
    WORDS,
    NUMBERS,
    st.none(),
    st.integers(),
    st.text(),
    st.text("aA0_-!", max_size=70),
    st.lists(st.integers()),
)


@pytest.mark.parametrize("name", KINDS)
@given(value=ANYTHING)
@example(value="A")
@example(value="a" * 64)
def test_a_reader_takes_what_its_schema_allows_and_nothing_else(name, value):
    if isinstance(value, str) and value.endswith("\n"):
        return  # Python's $ takes it for the end, ECMA's, which JSON Schema means, does not
    try:
        KINDS[name].read(value, "here")
        is_read = True
    except FormatError:
        is_read = False
    assert is_read == Draft202012Validator(KINDS[name].schema).is_valid(value)


def test_a_kind_of_answers_alone_reads_nothing():
    with pytest.raises(FormatError, match="only ever written"):
        values.FLAG.read(True, "here")
