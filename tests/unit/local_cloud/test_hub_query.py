import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_cloud.twin_hub.faults import HubError
from local_cloud.twin_hub.query import ItemType, run_query

TWINS = {
    "a": {"deviceId": "a", "tags": {"n": 1, "s": "one", "b": True, "o": {"x": 1}}, "status": "enabled"},
    "b": {"deviceId": "b", "tags": {"n": 2.5, "s": "two", "z": None}, "status": "enabled"},
    "b/m": {"deviceId": "b", "moduleId": "m", "tags": {"n": 7}},
    "c": {"deviceId": "c", "tags": {"n": "1", "my-tag": {"odd name": 5}}, "status": "disabled"},
    "d": {"deviceId": "d", "tags": {}, "status": "enabled"},
}


def page(text, *, size=100, continuation=None, twins=TWINS):
    return run_query(
        text, keys=sorted(twins), row=twins.__getitem__, page_size=size, continuation=continuation
    )


def where(condition):
    return "".join(row["deviceId"] for row in page(f"SELECT * FROM devices WHERE {condition}").items)


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("deviceId = 'a'", "a"),
        ('deviceId = "b"', "b"),
        ("devices.deviceId = 'a'", "a"),
        ("tags.n = 1", "a"),
        ("tags.n = '1'", "c"),
        ("tags.n = true", ""),
        ("tags.b = true", "a"),
        ("tags.b = 1", ""),
        ("tags.n != 1", "bc"),
        ("tags.n <> 1", "bc"),
        ("tags.n > 1", "b"),
        ("tags.n >= 1 AND tags.n <= 2.5", "ab"),
        ("tags.n < -1", ""),
        ("tags.s < 'p'", "a"),
        ("tags.n IN [1, 2.5]", "ab"),
        ("tags.n NIN [1, 2.5]", "c"),
        ("NOT tags.n = 1", "bc"),
        ("NOT (tags.n = 1 OR tags.s = 'two')", "cd"),
        ("tags.n = 1 OR tags.n = '1' AND status = 'disabled'", "ac"),
        ("(tags.n = 1 OR tags.n = '1') AND status = 'disabled'", "c"),
        ("is_defined(tags.z)", "b"),
        ("NOT is_defined(tags.n)", "d"),
        ("is_null(tags.z)", "b"),
        ("tags.z = null", "b"),
        ("is_number(tags.n)", "ab"),
        ("is_string(tags.n)", "c"),
        ("is_bool(tags.b)", "a"),
        ("is_object(tags.o)", "a"),
        ("is_primitive(tags.n)", "abc"),
        ("startswith(tags.s, 'o')", "a"),
        ("ends_with(tags.s, 'o')", "b"),
        ("contains(tags.s, 'w')", "b"),
        ("tags.[[my-tag]].[[odd name]] = 5", "c"),
        ("tags.my-tag.[[odd name]] = 5", "c"),
        (r"tags.s = '\u006fne'", "a"),
        ("tags.o.x = 1;", "a"),
        ("tags.o = tags.o", "a"),
    ],
)
def test_condition_selects(condition, found):
    assert where(condition) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SELECT",
        "SELECT * FROM",
        "SELECT * FROM jobs",
        "SELECT * FROM devices WHERE",
        "SELECT * FROM devices WHERE tags.n =",
        "SELECT * FROM devices WHERE tags.n = 1 1",
        "SELECT * FROM devices WHERE (tags.n = 1",
        "SELECT * FROM devices WHERE sleep(1)",
        "SELECT * FROM devices WHERE startswith('a')",
        "SELECT * FROM devices WHERE tags.n IN []",
        "SELECT * FROM devices WHERE tags.n IN [tags.s]",
        "SELECT * FROM devices WHERE tags.n = 'open",
        "SELECT * FROM devices WHERE tags.n = " + "1" * 40,
        "SELECT * FROM devices GROUP BY tags.n",
        "SELECT median(tags.n) FROM devices",
        "SELECT sum() FROM devices",
        "SELECT TOP x * FROM devices",
        "SELECT * FROM devices; DROP TABLE twin",
        "SELECT * FROM devices WHERE " + "(" * 100 + "1" + ")" * 100,
        "SELECT * FROM devices WHERE " + "NOT " * 1000 + "true",
        "SELECT * FROM devices WHERE a = '" + "x" * 9000 + "'",
        "SELECT \N{SNOWMAN} FROM devices",
    ],
)
def test_text_outside_the_language_is_refused(text):
    with pytest.raises(HubError, match="query: "):
        page(text)


WORDS = """
SELECT * FROM devices WHERE tags.n = 1 'x' ( ) [ ] , AND OR NOT IN TOP COUNT GROUP BY AS null < is_null
"""
words = st.sampled_from(WORDS.split())


@given(st.lists(words, max_size=15).map(" ".join) | st.text(max_size=40))
def test_any_text_is_answered_or_refused(text):
    try:
        result = page(text)
    except HubError:
        return
    assert len(result.items) <= len(TWINS)


def test_projection_leaves_out_what_is_not_there():
    result = page("SELECT deviceId AS id, tags.s FROM devices")

    assert result.item_type is ItemType.RAW
    assert result.items == [{"id": "a", "s": "one"}, {"id": "b", "s": "two"}, {"id": "c"}, {"id": "d"}]


def test_groups_are_counted_and_summed():
    result = page("SELECT status, COUNT() AS n, MAX(tags.n) AS top, AVG(tags.n) FROM devices GROUP BY status")

    assert result.items == [
        {"status": "enabled", "n": 3, "top": 2.5, "avg": 1.75},
        {"status": "disabled", "n": 1},
    ]


@pytest.mark.parametrize(
    ("condition", "count"), [("", 4), ("WHERE tags.n > 0", 2), ("WHERE deviceId = 'zz'", 0)]
)
def test_a_count_without_groups_is_one_row(condition, count):
    assert page(f"SELECT COUNT() AS n FROM devices {condition}").items == [{"n": count}]


def test_groups_tell_types_and_absence_apart():
    assert len(page("SELECT COUNT() FROM devices GROUP BY tags.n").items) == 4


def test_modules_are_a_collection_of_their_own():
    assert page("SELECT * FROM devices.modules").items == [TWINS["b/m"]]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM devices",
        "SELECT * FROM devices WHERE status = 'enabled'",
        "SELECT TOP 3 deviceId FROM devices",
        "SELECT tags.n AS n, COUNT() AS c FROM devices GROUP BY tags.n",
    ],
)
def test_pages_hold_every_row_once(text, size):
    whole, found, continuation = page(text).items, [], None
    for _ in range(len(TWINS) + 1):
        part = page(text, size=size, continuation=continuation)
        assert len(part.items) <= size
        found += part.items
        continuation = part.continuation
        if continuation is None:
            break

    assert continuation is None
    assert found == whole


def test_device_that_goes_between_two_pages_shifts_nobody():
    first = page("SELECT * FROM devices", size=2)
    left = {key: twin for key, twin in TWINS.items() if key != "a"}

    second = page("SELECT * FROM devices", size=2, continuation=first.continuation, twins=left)

    assert [row["deviceId"] for row in second.items] == ["c", "d"]


def test_continuation_of_another_query_is_refused():
    first = page("SELECT * FROM devices", size=2)

    with pytest.raises(HubError, match="another query"):
        page("SELECT * FROM devices WHERE true", continuation=first.continuation)


@pytest.mark.parametrize("text", ["x", "====", "bnVsbA==", "W10=", "W1sxLDJdXQ==", "\N{SNOWMAN}"])
def test_continuation_that_is_none_is_refused(text):
    with pytest.raises(HubError, match="continuation"):
        page("SELECT * FROM devices", continuation=text)
