"""Strict JSON: what RFC 8259 allows, and none of the standard library's leniency."""

from __future__ import annotations

import json

import pytest

from shared.errors import FormatError
from shared.strict_json import MAX_DEPTH, loads


@pytest.mark.parametrize(
    "text", ['{"a":[1,-2.5,1e3,true,null,"\\u00e9\\ud83d\\ude00"]}', ' "x" ', "0", "[]", '"[[[[\\"[["']
)
def test_documents_come_out_as_the_standard_library_reads_them(text):
    assert loads(text, where="here") == json.loads(text)
    assert loads(text.encode(), where="here") == json.loads(text)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"a":\xff}', "not UTF-8 at byte 5"),
        (b'{"a":1,"a":2}', "stands twice"),
        (b'{"b":{"a":1,"\\u0061":2}}', "stands twice"),
        (b"[NaN]", "at character 1, found NaN"),
        (b'["NaN",-Infinity]', "at character 7, found -Infinity"),
        (b"[1e999]", "out of range"),
        (b'"\\ud800"', r"lone surrogate U\+D800"),
        (b'{"\\udfff":1}', "lone surrogate"),
        (b"{} {}", "at character 3"),
        (b"", "at character 0"),
        (b"[1,]", "at character"),
        (b"{'a':1}", "at character 1"),
        (b'"a\nb"', "at character 2"),
        (b"9" * 5000, "out of range"),
        (b'{"a":"\0"}', "at character"),
    ],
)
def test_leniency_is_refused_and_the_message_says_what_was_found(data, found):
    with pytest.raises(FormatError, match=found) as caught:
        loads(data, where="here")
    assert str(caught.value).startswith("here: ")


def test_nesting_is_counted_outside_of_strings_only():
    assert loads("[" * MAX_DEPTH + "]" * MAX_DEPTH, where="here")
    assert loads('["' + "[" * 500 + '"]', where="here") == ["[" * 500]
    with pytest.raises(FormatError, match="expected nesting of at most 32, found deeper at character 32"):
        loads("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), where="here")
    with pytest.raises(FormatError, match="found deeper at character 160"):
        loads('{"a":' * 100_000, where="here")


@pytest.mark.timeout(20)
def test_a_string_of_escapes_that_never_closes_costs_linear_time():
    # Quadratic scanning would need hours for this.
    with pytest.raises(FormatError, match="Unterminated string"):
        loads('"' + '\\"' * 500_000, where="here")
