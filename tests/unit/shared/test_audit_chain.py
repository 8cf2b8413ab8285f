"""The audit chain: what verifying finds, and what it cannot find without an anchor."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.audit.chain import (
    MAX_INTEGER,
    MAX_LINE_BYTES,
    START,
    Head,
    canonical_json,
    link,
    parse_entry,
    read_anchor,
    verify,
)
from shared.errors import FormatError, VerificationError


def chain(*records, head=START):
    entries = []
    for record in records:
        entries.append(link(head, record))
        head = entries[-1].head
    return entries


FOUR = chain(*({"event": "wrap", "n": number} for number in range(4)))


def code_of(entries, **other):
    with pytest.raises(VerificationError) as caught:
        verify(entries, **other)
    return caught.value.code


def test_an_entry_hashes_the_one_before_it_and_its_own_record():
    expected = hashlib.sha256(FOUR[0].hash + b'{"event":"wrap","n":1}').digest()
    assert (FOUR[1].seq, FOUR[1].prev, FOUR[1].hash) == (2, FOUR[0].hash, expected)
    assert FOUR[0].prev == bytes(32)


def test_a_whole_chain_verifies_to_its_head_and_so_do_its_parts():
    assert verify(FOUR) == FOUR[-1].head
    assert verify([]) == START
    assert verify(FOUR[2:], start=verify(FOUR[:2])) == FOUR[-1].head


def test_an_entrys_line_is_its_documents_canonical_json_whether_linked_or_read():
    for entry in chain(
        {"event": "wrap", "detail": "é\u2028\U0001f600", "n": [1, None, {"b": 1, "a": 2}]}, {}
    ):
        line = canonical_json(entry.document()) + b"\n"
        assert entry.line() == line
        assert parse_entry(line, where="line").line() == line


def test_an_entry_with_another_record_is_written_with_that_record():
    changed = replace(FOUR[1], record={"event": "wrap", "n": 7})
    assert b'"record":{"event":"wrap","n":7}' in changed.line()
    assert code_of([FOUR[0], parse_entry(changed.line(), where="line")]) == "audit_changed"


def test_an_entry_rests_and_travels_as_it_is():
    for entry in FOUR:
        assert parse_entry(entry.line(), where="line") == entry
        assert parse_entry(json.dumps(entry.document()), where="answer") == entry


@pytest.mark.parametrize(
    ("tampered", "code"),
    [
        ([FOUR[0], FOUR[2], FOUR[3]], "audit_gap"),
        ([FOUR[1], FOUR[2], FOUR[3]], "audit_gap"),
        ([FOUR[0], FOUR[2], FOUR[1], FOUR[3]], "audit_gap"),
        ([FOUR[0], FOUR[0], FOUR[1]], "audit_gap"),
        ([FOUR[0], replace(FOUR[2], seq=2), replace(FOUR[3], seq=3)], "audit_unlinked"),
        ([FOUR[0], replace(FOUR[1], record={"event": "wrap", "n": 9}), *FOUR[2:]], "audit_changed"),
        ([FOUR[0], replace(FOUR[1], record={"event": "wrap", "n": True}), *FOUR[2:]], "audit_changed"),
        ([FOUR[0], replace(FOUR[1], record={"event": 1.5}), *FOUR[2:]], "audit_changed"),
        ([FOUR[0], link(FOUR[0].head, {"event": "planted"}), *FOUR[2:]], "audit_unlinked"),
        ([FOUR[0], replace(FOUR[1], hash=bytes(32)), *FOUR[2:]], "audit_changed"),
    ],
)
def test_what_was_removed_moved_changed_or_planted_is_found(tampered, code):
    assert code_of(tampered) == code


class TestAnchors:
    """What the chain alone cannot tell."""

    REWRITTEN = chain(*({"event": "wrap", "n": number} for number in (0, 1, 9, 3)))

    def test_a_cut_end_and_a_rewritten_chain_verify_without_an_anchor(self):
        assert verify(FOUR[:2]).seq == 2
        assert verify(self.REWRITTEN).seq == 4

    def test_an_anchor_finds_a_cut_end(self):
        assert code_of(FOUR[:3], anchors=[FOUR[3].head]) == "audit_truncated"
        assert code_of([], anchors=[FOUR[0].head]) == "audit_truncated"

    @pytest.mark.parametrize("kept", [2, 3])
    def test_an_anchor_finds_a_chain_that_was_written_anew(self, kept):
        assert code_of(self.REWRITTEN, anchors=[FOUR[kept].head]) == "audit_rewritten"

    def test_an_anchor_before_the_change_finds_nothing(self):
        assert verify(self.REWRITTEN, anchors=[FOUR[1].head]).seq == 4

    def test_an_anchor_where_verifying_begins_is_compared(self):
        assert verify(FOUR[2:], start=FOUR[1].head, anchors=[FOUR[0].head, FOUR[1].head]).seq == 4
        other = Head(seq=2, hash=bytes(32))
        assert code_of(FOUR[2:], start=FOUR[1].head, anchors=[other]) == "audit_rewritten"

    def test_an_anchor_is_read_from_what_people_keep(self):
        head = FOUR[2].head
        assert read_anchor(f"3:{head.hash.hex()}", where="--anchor") == head

    @pytest.mark.parametrize("text", ["", "3", "3:", "x:" + "0" * 64, "3:" + "A" * 64, "-1:" + "0" * 64])
    def test_anything_else_is_no_anchor(self, text):
        with pytest.raises(FormatError, match=r"^--anchor: "):
            read_anchor(text, where="--anchor")


class TestCanonicalJson:
    def test_names_are_sorted_and_nothing_is_escaped_that_need_not_be(self):
        value = {"b": [1, None, True], "a": {"é": "€\u007f", "\n": '"\\\u0001'}}
        assert (
            canonical_json(value) == '{"a":{"\\n":"\\"\\\\\\u0001","é":"€\u007f"},"b":[1,null,true]}'.encode()
        )

    def test_names_are_sorted_by_utf16_code_units(self):
        assert canonical_json({"\ufb33": 1, "\U0001f600": 2}) == '{"\U0001f600":2,"\ufb33":1}'.encode()

    @pytest.mark.parametrize("value", [1.5, b"", {1: 2}, {"a": object()}, MAX_INTEGER + 1, "\ud800"])
    def test_what_has_no_one_form_is_refused(self, value):
        with pytest.raises(FormatError, match=r"^audit record: "):
            canonical_json(value)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"{}",
        FOUR[0].line().replace(b'"seq":1', b'"seq":0'),
        FOUR[0].line().replace(b'"seq":1', b'"seq":true'),
        FOUR[0].line().replace(b'"seq":1', b'"seq":"1"'),
        FOUR[0].line().replace(b'"prev":"00', b'"prev":"0'),
        FOUR[0].line().replace(b'"record":{', b'"record":[').replace(b"}", b"]", 1),
        FOUR[0].line().replace(b'"seq":1', b'"seq":1,"more":1'),
        FOUR[0].line()[:-2],
        b" " * MAX_LINE_BYTES + FOUR[0].line(),
    ],
)
def test_what_is_no_entry_is_a_format_error(line):
    with pytest.raises(FormatError, match=r"^segment: |^segment"):
        parse_entry(line, where="segment")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.lists(st.dictionaries(st.text(), VALUES, max_size=4), min_size=1, max_size=6)


@given(records=RECORDS)
def test_any_records_survive_lines_and_verify(records):
    entries = chain(*records)
    read = [parse_entry(entry.line(), where="line") for entry in entries]
    assert verify(read) == entries[-1].head


@given(records=RECORDS, data=st.data())
def test_no_change_before_an_anchor_goes_unnoticed(records, data):
    """Whatever is dropped, repeated, moved or edited: with the head as anchor, it is found."""
    entries = chain(*records)
    order = data.draw(st.lists(st.sampled_from(range(len(entries))), max_size=len(entries) + 1))
    edited = [entries[index] for index in order]
    if edited and data.draw(st.booleans()):
        place = data.draw(st.sampled_from(range(len(edited))))
        edited[place] = replace(edited[place], record=data.draw(st.dictionaries(st.text(), VALUES)))
    if edited == entries or [entry.line() for entry in edited] == [entry.line() for entry in entries]:
        assert verify(edited, anchors=[entries[-1].head]) == entries[-1].head
    else:
        with pytest.raises(VerificationError):
            verify(edited, anchors=[entries[-1].head])
