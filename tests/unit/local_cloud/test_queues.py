import asyncio
import time

import pytest
from azure.functions.meta import Datum

from local_cloud.functions_host.definitions import FunctionDefinition, Trigger, TriggerType
from local_cloud.functions_host.engine import Outcome
from local_cloud.functions_host.host_settings import HostSettings, MessageEncoding
from local_cloud.functions_host.invoker import Invoker
from local_cloud.functions_host.queues import MAX_MESSAGE, Queues, QueueWorker, parse_queue_name
from local_cloud.functions_host.store import HostStore
from shared.errors import FormatError

FUNCTION = FunctionDefinition(
    name="work",
    trigger=Trigger(argument="message", type=TriggerType.QUEUE, members={"queueName": "items"}),
    outputs=(),
)


class ScriptedEngine:
    """An engine whose one function fails as often as it is told to, for each message."""

    def __init__(self, failures):
        self.failures = failures
        self.calls = []
        self.running = self.most_running = 0
        self.hold = asyncio.Event()
        self.hold.set()

    def definitions(self):
        return (FUNCTION,)

    async def invoke(self, invocation):
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await self.hold.wait()
        self.running -= 1
        text = invocation.data.value
        self.calls.append((text, int(invocation.metadata["DequeueCount"].value), invocation.attempt))
        failed = int(invocation.metadata["DequeueCount"].value) <= self.failures.get(text, 0)
        return Outcome(error=ValueError("no") if failed else None)

    def close(self):
        pass


async def until(condition):
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - the disk has no event
            await asyncio.sleep(0.005)


class Rig:
    def __init__(self, store, failures=None, **settings):
        self.store = store
        self.settings = HostSettings(**settings)
        self.queues = Queues(store, self.settings)
        self.engine = ScriptedEngine(failures or {})
        self.worker = QueueWorker(
            FUNCTION,
            "items",
            queues=self.queues,
            store=store,
            invoker=Invoker(self.engine, self.queues),
            settings=self.settings,
        )

    async def put(self, *texts):
        await self.queues.put([("items", Datum(text, "string")) for text in texts])

    async def work_until(self, condition):
        task = asyncio.create_task(self.worker.run())
        await until(condition)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def store(tmp_path):
    store = HostStore(tmp_path / "host.db")
    yield store
    store.close()


def test_messages_are_worked_on_in_order_and_deleted(store):
    async def scenario():
        rig = Rig(store, batch_size=1)
        await rig.put("a", "b", "c")
        await rig.work_until(lambda: not store.lengths())
        return rig.engine.calls

    assert asyncio.run(scenario()) == [("a", 1, 0), ("b", 1, 0), ("c", 1, 0)]


def test_a_message_put_while_the_worker_sleeps_wakes_it(store):
    async def scenario():
        rig = Rig(store)
        task = asyncio.create_task(rig.worker.run())
        await rig.put("first")
        await until(lambda: not store.lengths())
        await rig.put("second")
        await until(lambda: not store.lengths())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return [call[0] for call in rig.engine.calls]

    assert asyncio.run(scenario()) == ["first", "second"]


def test_a_failing_message_is_tried_as_often_as_allowed_and_then_poisoned(store):
    async def scenario():
        rig = Rig(store, {"bad": 99, "late": 2}, max_dequeue_count=3)
        await rig.put("bad", "late", "good")
        await rig.work_until(lambda: store.lengths() == {"items-poison": 1})
        return rig.engine.calls

    calls = asyncio.run(scenario())
    assert [call[1:] for call in calls if call[0] == "bad"] == [(1, 0), (2, 1), (3, 2)]
    assert [call[1:] for call in calls if call[0] == "late"] == [(1, 0), (2, 1), (3, 2)]
    assert [call[1:] for call in calls if call[0] == "good"] == [(1, 0)]


@pytest.mark.parametrize(("batch", "threshold", "most"), [(3, 0, 3), (1, 0, 1), (3, 3, 6)])
def test_no_more_than_a_batch_and_its_threshold_is_worked_on_at_once(store, batch, threshold, most):
    async def scenario():
        rig = Rig(store, batch_size=batch, new_batch_threshold=threshold)
        rig.engine.hold.clear()
        await rig.put(*(str(number) for number in range(10)))
        task = asyncio.create_task(rig.work_until(lambda: not store.lengths()))
        await until(lambda: rig.engine.running == most)
        rig.engine.hold.set()
        await task
        return rig.engine.most_running, len(rig.engine.calls)

    assert asyncio.run(scenario()) == (most, 10)


def test_a_failed_message_waits_for_the_visibility_timeout(store):
    store.put([("items", "eA==")])
    (message,) = store.take("items", 10)
    before = time.time()
    store.give_back(message, delay=60)
    assert store.take("items", 10) == []
    assert before + 60 <= store.next_visible("items") <= time.time() + 60
    store.give_back(message, delay=0)
    assert [taken.dequeue_count for taken in store.take("items", 10)] == [2]


def test_a_message_that_was_worked_on_when_the_process_died_is_free_again(tmp_path):
    path = tmp_path / "host.db"
    first = HostStore(path)
    first.put([("items", "x")])
    assert [message.dequeue_count for message in first.take("items", 10)] == [1]
    assert first.take("items", 10) == []
    first.close()
    second = HostStore(path)
    assert [message.dequeue_count for message in second.take("items", 10)] == [2]
    second.close()


def test_messages_older_than_their_life_are_dropped(store):
    store.put([("items", "old"), ("items", "new")])
    with store._database.transaction() as database:
        database.execute("UPDATE messages SET inserted = inserted - 8 * 86400 WHERE text = 'old'")
    assert [message.text for message in store.take("items", 10)] == ["new"]


def test_text_that_is_not_written_as_the_settings_say_is_poison(store):
    async def scenario():
        rig = Rig(store)
        store.put([("items", "not base64!")])
        await rig.work_until(lambda: store.lengths() == {"items-poison": 1})
        return rig.engine.calls

    assert asyncio.run(scenario()) == []


@pytest.mark.parametrize("encoding", list(MessageEncoding))
@pytest.mark.parametrize(
    ("datum", "bodies"),
    [
        (Datum("text ü", "string"), ["text ü"]),
        (Datum(b"bytes", "bytes"), ["bytes"]),
        (Datum('["a", {"id": "1", "body": "b"}]', "json"), ["a", "b"]),
        (Datum('{"id": "1", "body": "c"}', "json"), ["c"]),
    ],
)
def test_what_a_function_puts_out_is_what_the_next_one_gets(store, encoding, datum, bodies):
    queues = Queues(store, HostSettings(message_encoding=encoding))
    asyncio.run(queues.put([("items", datum)]))
    assert [queues.decode(message).value for message in store.take("items", 10)] == bodies


def test_bytes_that_are_no_text_come_back_as_bytes(store):
    queues = Queues(store, HostSettings())
    asyncio.run(queues.put([("items", Datum(b"\xff\x00", "bytes"))]))
    (message,) = store.take("items", 1)
    assert (queues.decode(message).type, queues.decode(message).value) == ("bytes", b"\xff\x00")


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (MessageEncoding.NONE, b"\xff"),
        (MessageEncoding.NONE, b"x" * (MAX_MESSAGE + 1)),
        (MessageEncoding.BASE64, b"x" * (MAX_MESSAGE * 3 // 4 + 1)),
    ],
)
def test_of_outputs_with_one_that_cannot_be_stored_none_is(store, encoding, body):
    queues = Queues(store, HostSettings(message_encoding=encoding))
    with pytest.raises(FormatError, match="message for queue items"):
        asyncio.run(queues.put([("other", Datum("fine", "string")), ("items", Datum(body, "bytes"))]))
    assert store.lengths() == {}


@pytest.mark.parametrize("name", ["abc", "distribute-passes", "a-1", "x" * 63])
def test_queue_names_of_the_platform_are_accepted(name):
    assert parse_queue_name(name, where="function work") == name


@pytest.mark.parametrize("name", ["", "ab", "x" * 64, "Abc", "a_b", "-abc", "abc-", "a--b", "a b c"])
def test_other_queue_names_are_refused(name):
    with pytest.raises(FormatError, match="function work: expected a queue name"):
        parse_queue_name(name, where="function work")
