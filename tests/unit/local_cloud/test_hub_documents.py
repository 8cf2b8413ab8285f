import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_cloud.twin_hub.documents import TwinDocument, TwinUpdate, measure, merge, service_time
from local_cloud.twin_hub.faults import Fault, HubError

AT = dt.datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=dt.UTC)
STAMP = {"$lastUpdated": "2026-03-04T05:06:07.0000890Z"}


def update(body, *, twin=None, replacing=False):
    return (twin or TwinDocument()).update(
        TwinUpdate.parse(body, replacing=replacing), at=AT, replacing=replacing
    )


def desired(**values):
    return {"properties": {"desired": values}}


def test_time_has_seven_digits_after_the_second():
    assert service_time(AT) == "2026-03-04T05:06:07.0000890Z"


@pytest.mark.parametrize(
    ("document", "patch", "merged"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}, {"a": {"c": 2}}),
        ({"a": 1}, {"a": {"b": 2}}, {"a": {"b": 2}}),
        ({"a": {"b": 2}}, {"a": 1}, {"a": 1}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({}, {"a": {"b": None}}, {"a": {}}),
        ({"a": 1}, {"z": None}, {"a": 1}),
    ],
)
def test_patch_merges(document, patch, merged):
    assert merge(document, patch) == merged


values = st.recursive(
    st.none() | st.booleans() | st.integers(-100, 100) | st.text(max_size=5),
    lambda below: st.dictionaries(st.sampled_from("abc"), below, max_size=3),
    max_leaves=10,
)
documents = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


@given(documents, documents)
def test_merge_twice_is_merge_once_and_changes_no_input(document, patch):
    before = repr(document), repr(patch)

    once = merge(merge({}, document), patch)

    assert merge(once, patch) == once
    assert (repr(document), repr(patch)) == before


def test_desired_write_counts_version_and_etag_and_is_pushed():
    change = update(desired(a={"b": 1, "c": None}))

    assert change.twin.desired.values == {"a": {"b": 1}}
    assert change.twin.desired.version == 2
    assert change.twin.etag != TwinDocument().etag
    assert change.pushed == {"a": {"b": 1, "c": None}, "$version": 2}
    stamp = {**STAMP, "$lastUpdatedVersion": 2}
    assert change.twin.desired.metadata == {**stamp, "a": {**stamp, "b": stamp}}
    told = change.event["properties"]["desired"]
    assert told["$metadata"]["a"]["c"] == stamp
    assert told["$version"] == 2


def test_reported_write_leaves_etag_and_desired_alone():
    change = TwinDocument().patch_reported({"a": 1, "$version": 77}, at=AT)

    assert change.twin.reported.as_device_sees() == {"a": 1, "$version": 2}
    assert change.twin.reported.metadata == {**STAMP, "a": STAMP}
    assert change.twin.etag == TwinDocument().etag
    assert change.event["version"] == 3


def test_tags_write_is_pushed_to_nobody():
    change = update({"tags": {"class": "gateway"}})

    assert change.pushed is None
    assert change.event == {"version": 3, "tags": {"class": "gateway"}}
    assert change.twin.desired.version == 1


def test_replacing_drops_what_a_given_section_held():
    twin = update({"tags": {"t": 1}, **desired(a=1)}).twin

    change = update(desired(b=2, c=None), twin=twin, replacing=True)

    assert change.twin.desired.as_device_sees() == {"b": 2, "$version": 3}
    assert change.pushed == {"b": 2, "$version": 3}
    assert change.twin.tags == {"t": 1}


def nested(depth):
    return {"k": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    ("patch", "fault"),
    [
        ({"a.b": 1}, Fault.ARGUMENT_INVALID),
        ({"a b": 1}, Fault.ARGUMENT_INVALID),
        ({"a": {"$b": 1}}, Fault.ARGUMENT_INVALID),
        ({"a": [{"b.c": 1}]}, Fault.ARGUMENT_INVALID),
        ({"": 1}, Fault.ARGUMENT_INVALID),
        ({"x" * 1025: 1}, Fault.ARGUMENT_INVALID),
        ({"a": "x" * 4097}, Fault.ARGUMENT_INVALID),
        ({"a": 2**52}, Fault.ARGUMENT_INVALID),
        ({"a": float("inf")}, Fault.ARGUMENT_INVALID),
        (nested(11), Fault.ARGUMENT_INVALID),
        ([], Fault.ARGUMENT_INVALID),
        ({f"k{n}": "x" * 4000 for n in range(9)}, Fault.TWIN_TOO_LARGE),
    ],
)
def test_patch_beyond_a_limit_is_refused(patch, fault):
    with pytest.raises(HubError) as caught:
        TwinDocument().patch_reported(patch, at=AT)

    assert caught.value.fault is fault


def test_patch_at_the_limits_is_taken():
    patch = {"x" * 1024: "y" * 4096, "low": -4503599627370496, "deep": nested(9)}

    assert TwinDocument().patch_reported(patch, at=AT).twin.reported.version == 2


def test_size_counts_names_and_values():
    assert measure({"ab": "cd", "n": 1, "f": 1.5, "t": True, "z": None, "o": {"p": "ü"}}, where="x") == (
        4 + 9 + 9 + 5 + 1 + 1 + 3
    )


def test_many_small_patches_do_not_grow_a_twin_beyond_its_limit():
    twin = TwinDocument()
    for number in range(8):
        twin = twin.patch_reported({f"k{number}": "x" * 4000}, at=AT).twin

    with pytest.raises(HubError) as caught:
        twin.patch_reported({"k8": "x" * 4000}, at=AT)

    assert caught.value.fault is Fault.TWIN_TOO_LARGE
    assert twin.patch_reported({"k0": None, "k8": "x" * 4000}, at=AT).twin.reported.version == 10


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {"tags": 1},
        {"properties": []},
        {"properties": {"desired": "x"}},
        {"properties": {"reported": {"a": 1}}},
    ],
)
def test_body_that_is_no_update_is_refused(body):
    if body is None:
        assert TwinUpdate.parse(body, replacing=False) == TwinUpdate(tags=None, desired=None)
        return
    with pytest.raises(HubError) as caught:
        TwinUpdate.parse(body, replacing=False)
    assert caught.value.fault is Fault.ARGUMENT_INVALID


def test_whole_twin_as_it_was_read_can_be_written_back():
    twin = update(desired(a=1)).twin
    body = {
        "tags": twin.tags,
        "properties": {
            "desired": twin.desired.as_service_sees(),
            "reported": twin.reported.as_service_sees(),
        },
    }

    assert update(body, twin=twin, replacing=True).twin.desired.values == {"a": 1}
