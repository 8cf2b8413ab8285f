"""The manifest's JSON Schema and the parser: what one takes the other takes, as far as a schema can tell."""

import io
import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import strict_json
from shared.cpk.frame import MAX_STREAMS, read_at, read_frame
from shared.cpk.manifest import encode_manifest, parse_manifest
from shared.errors import FormatError

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "spec" / "cpk-manifest.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
VECTORS = sorted((Path(__file__).parent / "cpk").glob("*.cpk"))

BEYOND_A_SCHEMA = {
    "s07-index-3": "an integer written with a fraction",
    "x-date-february": "no such day",
    "x-date-hour": "no such hour",
    "x-index-exponent": "an integer written with an exponent",
}
"""Vectors whose manifest fits the schema and is malformed all the same."""


def manifest_of(path):
    """Return the manifest's bytes and value; ``None`` where there is no frame or no strict JSON."""
    data = path.read_bytes()
    try:
        frame = read_frame(io.BytesIO(data), len(data))
        stream = frame.streams[frame.manifest_index]
        text = read_at(io.BytesIO(data), frame.file_offset(stream.index), stream.size, what="manifest")
        return text, strict_json.loads(text, where="manifest")
    except FormatError:
        return None


MANIFESTS = {path.stem: found for path in VECTORS if (found := manifest_of(path)) is not None}


def complaint_about(text):
    """Return what the parser says against a manifest in a frame of 64 streams; ``None`` if nothing."""
    try:
        parse_manifest(text, stream_count=MAX_STREAMS)
    except FormatError as error:
        return str(error)
    return None


def fits(document):
    return VALIDATOR.is_valid(document)


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert len(MANIFESTS) > 250


@pytest.mark.parametrize("name", MANIFESTS)
def test_schema_and_parser_agree_about_every_vector(name):
    text, document = MANIFESTS[name]
    complaint = complaint_about(text)

    if name in BEYOND_A_SCHEMA:
        assert fits(document)
        assert complaint is not None
        return
    if complaint is None:
        assert fits(document) or lacks_certificate(document)
    else:
        assert not fits(document), complaint


def depth(value):
    """Return how deep containers are nested, which no schema can bound."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max(map(depth, children), default=0)


def lacks_certificate(document):
    """Tell whether a signature stands without certificate; that is refused with the package, not here."""
    return any(
        isinstance(document[section]["sig"], dict) and document[section]["cert"] == "none"
        for section in ("payload", "package")
    )


@pytest.mark.parametrize(
    "name", [name for name, (text, _) in MANIFESTS.items() if complaint_about(text) is None]
)
def test_what_the_writer_writes_fits_the_schema(name):
    manifest = parse_manifest(MANIFESTS[name][0], stream_count=MAX_STREAMS)
    written = json.loads(encode_manifest(manifest))

    assert fits(written) or lacks_certificate(written)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 70)
    | st.sampled_from([128, 192, 256, 2048, 65536, 1 << 20, 2**32 - 1, 2**32, 2**63])
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer())
    | st.text(max_size=4)
    | st.sampled_from(["none", "a\n", "", "\x7f", "x" * 257, "x" * 1025])
)
TAGS = [
    tag
    for name in ("encryption", "payloadDigest", "signing", "certification")
    for tag in SCHEMA["$defs"][name]["oneOf"][1]["properties"]
]
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*TAGS, "data", "key_name", "key_strength", "0", "63", "64"]), inner, max_size=3
        )
    ),
    max_leaves=5,
)
BASES = [
    document
    for name, (text, document) in MANIFESTS.items()
    if complaint_about(text) is None and fits(document)
]


def places(value, path=()):
    yield path
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for name, child in children:
        yield from places(child, (*path, name))


@settings(max_examples=1500, deadline=None)
@given(base=st.sampled_from(BASES), value=VALUES, data=st.data())
def test_schema_and_parser_agree_about_any_value_anywhere(base, value, data):
    document = json.loads(json.dumps(base))
    path = data.draw(st.sampled_from([path for path in places(document) if path and path[-1] != "date"]))
    place = document
    for name in path[:-1]:
        place = place[name]
    if data.draw(st.booleans()):
        place[path[-1]] = value
    else:
        del place[path[-1]]

    complaint = complaint_about(json.dumps(document).encode())

    if complaint is None:
        assert fits(document) or lacks_certificate(document)
    else:
        assert not fits(document) or depth(document) > strict_json.MAX_DEPTH, complaint
