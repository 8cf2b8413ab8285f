"""Floods and giants: what a hub may send, and what the agent keeps of it."""

import pytest
from simulators.device_link import SimulatedLink

from device_agent.inbox import MAX_EVENTS, Inbox
from device_agent.twin_bounds import MAX_DEPTH, MAX_SECTION, is_within_bounds
from device_agent.twin_link import DesiredPatch, LinkChanged, parse_section, parse_twin
from device_agent.twin_view import TwinView
from shared.errors import FormatError


def nested(depth):
    document = "x"
    for _ in range(depth):
        document = {"a": document}
    return document


GIANTS = {
    "long text": {"$version": 2, "a": "x" * (MAX_SECTION + 1)},
    "long name": {"$version": 2, "x" * (MAX_SECTION + 1): 1},
    "many names": {"$version": 2, **{str(number): 1 for number in range(MAX_SECTION // 4)}},
    "long list": {"$version": 2, "a": [1] * MAX_SECTION},
    "deep": {"$version": 2, "a": nested(100_000)},
}


@pytest.mark.parametrize("giant", GIANTS.values(), ids=GIANTS)
def test_giant_is_refused_wherever_it_comes_from(giant):
    inbox = Inbox()

    inbox.put(DesiredPatch(document=giant))

    assert inbox.get(0) == LinkChanged()
    with pytest.raises(FormatError):
        parse_section(giant, where="test")
    with pytest.raises(FormatError):
        parse_twin({"desired": giant, "reported": {"$version": 1}})


def test_twin_as_large_as_the_hub_allows_is_taken():
    document = {f"name-{number}": "x" * 4000 for number in range(8)}

    assert is_within_bounds(document)
    assert is_within_bounds(nested(MAX_DEPTH))
    assert not is_within_bounds(nested(MAX_DEPTH + 1))


def test_flood_of_patches_keeps_a_bounded_number_of_them():
    inbox = Inbox()
    for version in range(100_000):
        inbox.put(DesiredPatch(document={"$version": version, "a": "x" * 1000}))

    waiting = 0
    while inbox.get(0) is not None:
        waiting += 1
    assert waiting <= MAX_EVENTS


def test_flood_of_giants_and_of_losses_keeps_a_bounded_number_of_events():
    inbox = Inbox()
    for event in [DesiredPatch(document=GIANTS["long text"]), LinkChanged()] * 1000:
        inbox.put(event)

    waiting = 0
    while inbox.get(0) is not None:
        waiting += 1
    assert waiting <= MAX_EVENTS


def test_patches_that_add_without_end_never_grow_the_picture_beyond_a_twin():
    link, view = SimulatedLink(), TwinView()
    link.connect(lambda _event: None)
    view.take(link.get_twin())

    for number in range(100):
        view.patch_desired(link.desire({f"name-{number}": "x" * 4000}))

    assert view.reported is None  # it is in doubt, and the whole twin is then refused
    assert is_within_bounds(view.desired)
    with pytest.raises(FormatError):
        link.get_twin()
