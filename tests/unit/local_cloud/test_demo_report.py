"""The report has the documented shape, and the transcript keeps the records it is made of."""

import io
import json

import pytest

from local_cloud.demo.report import DeviceRecord, Report, percentile
from local_cloud.demo.transcript import Transcript


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def transcript(records, clock):
    out = io.StringIO()
    return Transcript(records, file=out, clock=clock), out


def test_report_has_exactly_the_documented_members():
    report = Report(times_to_key_ms=[120.04, 80.0], leaks_found=0)
    report.devices["edge-01"] = DeviceRecord(
        state="released", reason=None, keys={"app": 2}, packages={"app": "1.1.0"}, accuracy=0.9711
    )
    clock = Clock()
    told, _ = transcript(report.steps, clock)
    with told.step(1, 1, "start"):
        clock.now += 1.23456
    assert json.loads(report.to_json()) == {
        "steps": [{"name": "start", "seconds": 1.235, "ok": True}],
        "time_to_key_ms": {"n": 2, "p50": 80.0, "p99": 120.0},
        "devices": {
            "edge-01": {
                "state": "released",
                "reason": None,
                "keys": {"app": 2},
                "packages": {"app": "1.1.0"},
                "accuracy": 0.9711,
            }
        },
        "leaks_found": 0,
    }


def test_report_before_anything_happened_claims_nothing():
    assert json.loads(Report().to_json()) == {
        "steps": [],
        "time_to_key_ms": {"n": 0, "p50": None, "p99": None},
        "devices": {},
        "leaks_found": None,
    }


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 50, None),
        ([7], 50, 7),
        ([7], 99, 7),
        ([3, 1, 2], 50, 2),
        ([1, 2], 50, 1),
        (range(1, 201), 99, 198),
    ],
)
def test_percentile_is_the_nearest_rank(values, percent, expected):
    assert percentile(list(values), percent) == expected


def test_a_step_that_fails_is_recorded_and_told_as_failed():
    records, clock = [], Clock()
    told, out = transcript(records, clock)

    def fail():
        with told.step(3, 9, "provision"):
            clock.now += 2
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [(record.name, record.seconds, record.ok) for record in records] == [("provision", 2.0, False)]
    assert "[3/9] provision" in out.getvalue()
    assert "FAILED after 2.00 s" in out.getvalue()


def test_lines_carry_the_time_and_are_never_cut():
    told, out = transcript([], clock := Clock())
    clock.now += 12.5
    told.tell("word " * 100)
    assert out.getvalue() == "  12.50 s        " + "word " * 100 + "\n"


def test_tables_and_brackets_are_printed_as_they_are():
    told, out = transcript([], Clock())
    told.table(["a", "b"], [["[red]x", "y" * 150]])
    assert "[red]x  " + "y" * 150 in out.getvalue()
