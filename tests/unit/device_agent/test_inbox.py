import threading

from device_agent.inbox import Inbox
from device_agent.twin_link import DesiredPatch, LinkChanged


def test_events_come_out_in_order_and_then_none():
    inbox = Inbox()
    events = [DesiredPatch(document=1), LinkChanged(), DesiredPatch(document=2)]
    for event in events:
        inbox.put(event)

    assert [inbox.get(0) for _ in range(4)] == [*events, None]


def test_overflow_leaves_one_event_that_calls_for_the_whole_twin():
    inbox = Inbox(limit=3)
    for number in range(4):
        inbox.put(DesiredPatch(document=number))

    assert [inbox.get(0), inbox.get(0)] == [LinkChanged(), None]


def test_event_from_another_thread_wakes_the_reader():
    inbox = Inbox()
    thread = threading.Thread(target=inbox.put, args=(LinkChanged(),))
    thread.start()

    assert inbox.get(30) == LinkChanged()
    thread.join()
