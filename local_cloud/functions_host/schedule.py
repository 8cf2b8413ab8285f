"""NCRONTAB schedules: ``{second} {minute} {hour} {day} {month} {day-of-week}``, in UTC.

Five fields leave the second out: it is 0. Day and day of week must both match, as NCRONTAB has it and cron
does not. Only NCRONTAB's own signs are accepted, not the extensions of the library underneath.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from croniter import CroniterError, croniter

from shared.errors import FormatError

_FIELD = re.compile(r"[0-9A-Za-z*,/-]+")
_NAMES = re.compile(r"(?i)jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat")
_FIELDS, _FIELDS_WITHOUT_SECOND = 6, 5
_SUNDAY_TWICE = re.compile(r"(?<!\d)7(?!\d)")


@dataclass(frozen=True, slots=True)
class Schedule:
    """A parsed schedule.

    Args:
        expression: Six fields.
    """

    expression: str

    def next(self, after: datetime) -> datetime:
        """Return the first moment of the schedule later than ``after`` (aware, UTC)."""
        return _iterator(self.expression, after).get_next(datetime)


def parse_schedule(text: str, *, where: str) -> Schedule:
    """Read an NCRONTAB expression.

    Raises:
        FormatError: It is none, or it never comes.
    """
    fields = text.split()
    if len(fields) == _FIELDS_WITHOUT_SECOND:
        fields = ["0", *fields]
    known = all(_FIELD.fullmatch(field) and not _strange_letters(field) for field in fields)
    if len(fields) != _FIELDS or not known or _SUNDAY_TWICE.search(fields[-1]):
        raise FormatError(f"{where}: expected an NCRONTAB expression of 6 or 5 fields, found {text!r:.64}")
    schedule = Schedule(" ".join(fields))
    try:
        schedule.next(datetime.now(UTC))
    except (CroniterError, ValueError, KeyError) as error:
        raise FormatError(f"{where}: the schedule {text!r:.64} is wrong or never comes: {error}") from error
    return schedule


def _strange_letters(field: str) -> bool:
    return bool(re.search(r"[A-Za-z]", _NAMES.sub("", field)))


def _iterator(expression: str, after: datetime) -> croniter:
    return croniter(expression, after, second_at_beginning=True, day_or=False)
