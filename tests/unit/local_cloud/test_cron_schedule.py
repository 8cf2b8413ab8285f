from datetime import UTC, datetime

import pytest

from local_cloud.functions_host.schedule import parse_schedule
from shared.errors import FormatError


def moment(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "after", "due"),
    [
        ("*/10 * * * * *", "2026-01-01T00:00:05", "2026-01-01T00:00:10"),
        ("*/10 * * * * *", "2026-01-01T00:00:10", "2026-01-01T00:00:20"),
        ("0 */5 * * * *", "2026-01-01T00:00:05", "2026-01-01T00:05:00"),
        ("*/5 * * * *", "2026-01-01T00:00:05", "2026-01-01T00:05:00"),
        ("30 0 9-17 * * *", "2026-01-01T17:00:31", "2026-01-02T09:00:30"),
        ("0 0 0 1 1 *", "2026-01-01T00:00:00", "2027-01-01T00:00:00"),
        ("0 0 12 * * mon-fri", "2026-01-02T12:00:00", "2026-01-05T12:00:00"),
        ("0 0 0 29 Feb *", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
        ("0 0 0 13 * 5", "2026-01-01T00:00:00", "2026-02-13T00:00:00"),
    ],
    ids=lambda value: value if " " in value else None,
)
def test_a_schedule_is_due_when_every_field_matches(expression, after, due):
    assert parse_schedule(expression, where="timer").next(moment(after)) == moment(due)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "* * * *",
        "* * * * * * *",
        "60 * * * * *",
        "* * 24 * * *",
        "0 0 0 31 2 *",
        "0 0 0 L * *",
        "0 0 0 * * mon#1",
        "H * * * * *",
        "0 0 0 * * 7",
        "@daily",
        "00:05:00",
        "*/0 * * * * *",
        "a * * * * *",
    ],
)
def test_what_is_no_ncrontab_or_never_comes_is_refused_by_name(expression):
    with pytest.raises(FormatError, match="timer"):
        parse_schedule(expression, where="timer")
