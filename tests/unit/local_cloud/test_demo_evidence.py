"""What the demonstration concludes from logs and answers."""

import datetime as dt

import pytest

from local_cloud.demo.device import Event
from local_cloud.demo.evidence import accuracy, time_to_key_ms

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
KEYS = {"keys": {"my_confidential_app": 1}}


def event(name, milliseconds, **fields):
    return Event(name=name, at=START + dt.timedelta(milliseconds=milliseconds), fields=fields)


@pytest.mark.parametrize(
    ("events", "asked_ms", "expected"),
    [
        pytest.param(
            [event("key_reported", 500), event("release_applied", 620, **KEYS)],
            0,
            120,
            id="from its report on",
        ),
        pytest.param(
            [event("key_reported", 500), event("release_applied", 1620, **KEYS)],
            1500,
            120,
            id="from the moment on when the key was asked for, if the device was earlier",
        ),
        pytest.param(
            [
                event("key_reported", 500),
                event("disconnected", 510),
                event("key_reported", 900),
                event("release_applied", 950, **KEYS),
                event("release_applied", 5000, **KEYS),
            ],
            0,
            50,
            id="from the last report before the first release on",
        ),
        pytest.param(
            [
                event("key_reported", 500),
                event("release_applied", 550, keys={}),
                event("release_applied", 600, **KEYS),
            ],
            0,
            100,
            id="to the release that holds the key",
        ),
        pytest.param([event("key_reported", 500)], 0, None, id="no release in the log"),
        pytest.param([event("release_applied", 500, **KEYS)], 0, None, id="no report in the log"),
        pytest.param([], 0, None, id="empty log"),
    ],
)
def test_time_to_key_is_read_from_the_agents_log(events, asked_ms, expected):
    asked_at = START + dt.timedelta(milliseconds=asked_ms)
    assert time_to_key_ms(events, asked_at=asked_at) == expected


def test_accuracy_is_the_share_of_true_labels():
    images = [{"id": number, "label": number, "pixels": []} for number in range(3)]
    assert accuracy([0, 1, 7], images) == 0.6667


def test_accuracy_of_too_few_predictions_is_no_accuracy():
    with pytest.raises(ValueError, match="longer"):
        accuracy([0], [{"label": 0}, {"label": 1}])
