"""What is said about each malformed vector: the field, the offset, what was expected and what was found."""

import io
import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

from shared.cpk.opening import inspect_package
from shared.errors import FormatError

FOLDER = Path(__file__).parent / "cpk"
MALFORMED = [
    path.stem
    for path in sorted(FOLDER.glob("*.json"))
    if json.loads(path.read_text()).get("inspect") == "malformed"
]
FIELD = re.compile(
    r"manifest(?: /[^ ]+| document)?: "
    r"|stream \d+[^:]*: "
    r"|(?:frame header|stream table|magic number|frame version|reserved flags|stream count|manifest index"
    r"|manifest type|manifest version|offset of stream 0) at offset \d+: "
)
# The same fault in two vectors: told in the same words.
SAME = [
    {"s14-digest-31", "y-dig-sha256-short"},
    {"x-der-is-pem", "y-cert-der-is-pem"},
    {"y-sig-ecdsa-p256-long", "y-sig-ed25519-long"},
]


def complaint(name):
    data = (FOLDER / f"{name}.cpk").read_bytes()
    with pytest.raises(FormatError) as caught:
        inspect_package(io.BytesIO(data), len(data))
    return str(caught.value)


@pytest.mark.parametrize("name", MALFORMED)
def test_it_says_field_offset_expected_and_found(name):
    message = complaint(name)

    assert FIELD.match(message), message
    assert re.search(r"at offset \d+", message), message
    assert re.search(
        r"expected .*, .*found |: not JSON at character \d+: |: not UTF-8 at byte \d+: found ", message
    )


def test_no_two_faults_are_told_in_the_same_words():
    told = defaultdict(set)
    for name in MALFORMED:
        # Where a fault lies in its file is not what tells it from another.
        told[re.sub(r" \(the manifest is stream .*|(?<=\)) at offset \d+", "", complaint(name))].add(name)

    assert [names for names in told.values() if len(names) > 1] == SAME


def test_the_offset_of_the_manifest_is_where_it_lies():
    for name in MALFORMED:
        if found := re.search(r"the manifest is stream (\d+) at offset (\d+)", complaint(name)):
            index, offset = map(int, found.groups())
            data = (FOLDER / f"{name}.cpk").read_bytes()
            count = int.from_bytes(data[8:10], "little")
            start = int.from_bytes(data[16 + 16 * index :][:8], "little")
            assert offset == 16 + 16 * count + start
            assert int.from_bytes(data[10:12], "little") == index
