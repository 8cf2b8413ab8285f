import asyncio
import contextvars
import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import azure.functions as func
import pytest
from azure.functions.meta import Datum

from local_cloud.functions_host import twin_events
from local_cloud.functions_host.__main__ import thread_count
from local_cloud.functions_host.access_keys import AccessKeys, AuthLevel, load_access_keys
from local_cloud.functions_host.definitions import (
    RETURN,
    FunctionDefinition,
    Output,
    OutputType,
    Trigger,
    TriggerType,
    resolved,
)
from local_cloud.functions_host.engine import Callee, Invocation, Outcome, SdkEngine
from local_cloud.functions_host.host_settings import HostSettings, MessageEncoding, load_host_settings
from local_cloud.functions_host.invoker import Invoker
from local_cloud.functions_host.queues import Queues
from local_cloud.functions_host.schedule import parse_schedule
from local_cloud.functions_host.store import HostStore
from local_cloud.functions_host.timers import Timer
from local_cloud.functions_host.twin_events import EventConsumer, HubEvent
from shared.errors import FormatError, SettingsError, StorageError, TransportError


@pytest.fixture
def store(tmp_path):
    store = HostStore(tmp_path / "host.db")
    yield store
    store.close()


def definition(kind, outputs=(), **members):
    trigger = Trigger(argument="value", type=kind, members=members)
    return FunctionDefinition(name="one", trigger=trigger, outputs=tuple(outputs))


class RecordingEngine:
    """An engine that notes its calls and gives the outcomes it was told, then successes."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.calls = []

    def definitions(self):
        return ()

    async def invoke(self, invocation):
        self.calls.append(invocation)
        return self.outcomes.pop(0) if self.outcomes else Outcome()

    def close(self):
        pass


def invoker(engine, store):
    return Invoker(engine, Queues(store, HostSettings()))


# --- engine


def engine_with(code, *outputs, wants_context=False, kind=TriggerType.QUEUE):
    callee = Callee(definition=definition(kind, outputs), code=code, wants_context=wants_context)
    return SdkEngine((callee,), folder=Path("/app"), threads=2)


def call(engine, **fields):
    data = Datum("text", "string")
    metadata = {"Id": Datum("m", "string"), "DequeueCount": Datum("1", "string")}
    invocation = Invocation(function="one", id="i-1", data=data, metadata=metadata, **fields)

    async def scenario():
        try:
            return await engine.invoke(invocation)
        finally:
            engine.close()

    return asyncio.run(scenario())


def test_a_synchronous_function_runs_in_a_thread_with_the_callers_context():
    tenant = contextvars.ContextVar("tenant")
    seen = {}

    def one(value):
        seen.update(thread=threading.current_thread(), tenant=tenant.get(), body=value.get_body())

    tenant.set("t-1")
    assert call(engine_with(one)).error is None
    assert (seen["tenant"], seen["body"]) == ("t-1", b"text")
    assert seen["thread"] is not threading.main_thread()


def test_a_function_may_ask_about_its_call():
    seen = {}

    async def one(value, context):
        seen.update(
            id=context.invocation_id,
            name=context.function_name,
            folder=context.function_directory,
            trace=context.trace_context.trace_parent,
            tries=context.retry_context.retry_count,
        )

    engine = engine_with(one, wants_context=True)
    assert call(engine, trace_parent="00-x", attempt=2).error is None
    assert seen == {"id": "i-1", "name": "one", "folder": "/app", "trace": "00-x", "tries": 2}


def test_what_a_function_raises_is_its_outcome():
    error = ValueError("no")

    def one(value):
        raise error

    assert call(engine_with(one)).error is error


def test_outputs_come_back_by_name_and_those_not_set_do_not():
    def one(value, first, second):
        first.set("a")
        return ["b", "c"]

    outputs = [
        Output(argument=name, type=OutputType.QUEUE, queue="abc") for name in ("first", "second", RETURN)
    ]
    results = call(engine_with(one, *outputs)).results
    assert {name: datum.value for name, datum in results.items()} == {"first": "a", RETURN: '["b", "c"]'}


def test_a_returned_value_without_a_place_for_it_fails_the_call():
    outcome = call(engine_with(lambda value: "text"))
    assert "returned a value" in str(outcome.error)


def test_an_output_that_does_not_fit_its_binding_fails_the_call_by_name():
    outcome = call(engine_with(lambda value: 7, Output(argument=RETURN, type=OutputType.QUEUE, queue="abc")))
    assert "output $return: int does not fit a binding of type queue" in str(outcome.error)


# --- invoker


def test_an_output_that_cannot_be_delivered_fails_the_call(store):
    function = definition(TriggerType.QUEUE, [Output(argument="out", type=OutputType.QUEUE, queue="abc")])
    engine = RecordingEngine(Outcome(results={"out": Datum("x" * 70_000, "string")}))
    outcome = asyncio.run(invoker(engine, store).invoke(function, Datum("", "string")))
    assert isinstance(outcome.error, FormatError)
    assert store.lengths() == {}


# --- settings in bindings


def test_settings_in_bindings_are_resolved():
    function = definition(
        TriggerType.QUEUE,
        [Output(argument="out", type=OutputType.QUEUE, queue="%A%-%B%")],
        queueName="in-%A%",
    )
    done = resolved(function, {"A": "1", "B": "2"})
    assert (done.trigger.text("queueName"), done.outputs[0].queue) == ("in-1", "1-2")
    with pytest.raises(FormatError, match="function one: the setting B in '%A%-%B%' is not set"):
        resolved(function, {"A": "1"})


# --- host.json


def test_host_json_is_read_as_far_as_it_matters(tmp_path):
    path = tmp_path / "host.json"
    queues = {
        "batchSize": 4,
        "newBatchThreshold": 1,
        "maxDequeueCount": 2,
        "visibilityTimeout": "00:01:30",
        "messageEncoding": "none",
    }
    extensions = {"http": {"routePrefix": "/v1/"}, "queues": queues, "eventHubs": {"maxEventBatchSize": 7}}
    path.write_text(json.dumps({"version": "2.0", "logging": {}, "extensions": extensions}))
    assert load_host_settings(path) == HostSettings(
        route_prefix="v1",
        batch_size=4,
        new_batch_threshold=1,
        max_dequeue_count=2,
        visibility_timeout=90,
        message_encoding=MessageEncoding.NONE,
        event_batch_size=7,
    )
    path.write_text('{"version": "2.0"}')
    assert load_host_settings(path) == HostSettings()
    path.write_text('{"version": "2.0", "extensions": {"queues": {"batchSize": 6}}}')
    assert load_host_settings(path).new_batch_threshold == 3


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ([], "/: expected an object"),
        ({}, "/version"),
        ({"version": "1.0"}, "/version"),
        ({"version": "2.0", "extensions": []}, "/extensions"),
        ({"version": "2.0", "extensions": {"http": {"routePrefix": 1}}}, "/extensions/http/routePrefix"),
        ({"version": "2.0", "extensions": {"queues": {"batchSize": 33}}}, "/extensions/queues/batchSize"),
        ({"version": "2.0", "extensions": {"queues": {"batchSize": True}}}, "/extensions/queues/batchSize"),
        (
            {"version": "2.0", "extensions": {"queues": {"visibilityTimeout": "5s"}}},
            "/extensions/queues/visibilityTimeout",
        ),
        (
            {"version": "2.0", "extensions": {"queues": {"messageEncoding": "hex"}}},
            "/extensions/queues/messageEncoding",
        ),
    ],
)
def test_a_fault_in_host_json_is_named_by_its_place(tmp_path, document, pointer):
    path = tmp_path / "host.json"
    path.write_text(json.dumps(document))
    with pytest.raises(FormatError) as caught:
        load_host_settings(path)
    assert pointer in str(caught.value)


def test_threads_are_as_many_as_the_workers_setting_says():
    assert thread_count({"PYTHON_THREADPOOL_THREAD_COUNT": "16"}) == 16
    assert 5 <= thread_count({}) <= 32


@pytest.mark.parametrize("text", ["0", "33", "-1", "many", "٣"])
def test_a_number_of_threads_that_the_worker_would_not_take_is_told(text):
    with pytest.raises(SettingsError, match="PYTHON_THREADPOOL_THREAD_COUNT: expected 1 to 32"):
        thread_count({"PYTHON_THREADPOOL_THREAD_COUNT": text})


# --- function keys

KEYS = AccessKeys([("p" * 32, frozenset({"Provision"})), ("w" * 32, frozenset({"Wrap"})), ("a" * 32, None)])


@pytest.mark.parametrize(
    ("level", "function", "key", "permitted"),
    [
        (AuthLevel.ANONYMOUS, "Health", None, True),
        (AuthLevel.FUNCTION, "Provision", "p" * 32, True),
        (AuthLevel.FUNCTION, "Provision", "a" * 32, True),
        (AuthLevel.FUNCTION, "Provision", "w" * 32, False),
        (AuthLevel.FUNCTION, "Provision", "p" * 31, False),
        (AuthLevel.FUNCTION, "Provision", "ü", False),
        (AuthLevel.FUNCTION, "Provision", "", False),
        (AuthLevel.FUNCTION, "Provision", None, False),
        (AuthLevel.ADMIN, "Provision", "p" * 32, False),
        (AuthLevel.ADMIN, "Provision", "a" * 32, True),
    ],
)
def test_a_key_opens_what_it_is_for(level, function, key, permitted):
    assert KEYS.permits(level, function, key) is permitted


def test_only_the_master_key_administers():
    assert [KEYS.permits_administration(key * 32) for key in "pwa"] == [False, False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected an object of keys"),
        ('{"a": {}}', "/a: expected the members key and functions"),
        ('{"a": {"key": "short", "functions": "*"}}', "/a/key: expected a string of at least 32"),
        (json.dumps({"a": {"key": "k" * 32, "functions": "One"}}), "/a/functions"),
        ("{", "not JSON"),
    ],
)
def test_a_faulty_keys_file_is_refused_without_repeating_a_key(tmp_path, text, message):
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=message) as caught:
        load_access_keys(path)
    assert "kkkk" not in str(caught.value)


def test_a_keys_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"keys\.json"):
        load_access_keys(tmp_path / "keys.json")


# --- timers


@pytest.mark.parametrize(
    ("schedule", "members", "last", "past_due"),
    [
        ("0 */5 * * * *", {}, timedelta(hours=1), [True]),
        ("0 */5 * * * *", {"useMonitor": False}, timedelta(hours=1), []),
        ("*/10 * * * * *", {}, timedelta(hours=1), []),
        ("0 0 0 1 1 *", {}, timedelta(0), []),
        ("0 0 0 1 1 *", {}, None, []),
        ("0 0 0 1 1 *", {"runOnStartup": True}, None, [False]),
    ],
)
def test_at_the_start_a_timer_runs_if_told_or_if_it_missed_a_moment(store, schedule, members, last, past_due):
    function = definition(TriggerType.TIMER, **members)
    if last is not None:
        store.set_timer("one", (datetime.now(UTC) - last).timestamp())
    engine = RecordingEngine()
    timer = Timer(function, parse_schedule(schedule, where="t"), invoker=invoker(engine, store), store=store)

    async def scenario():
        task = asyncio.create_task(timer.run())
        async with asyncio.timeout(120):
            while len(engine.calls) < len(past_due):  # noqa: ASYNC110 - the engine has no event
                await asyncio.sleep(0.001)
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
    assert [json.loads(made.data.value)["IsPastDue"] for made in engine.calls] == past_due


# --- events


class EventLog:
    """A hub's log that fails as often as it is told, and tells when it was read to its end."""

    def __init__(self, count, failures=0):
        self.events = [
            HubEvent(sequence=number, body={"n": number}, properties={}, system_properties={})
            for number in range(1, count + 1)
        ]
        self.failures = failures
        self.drained = asyncio.Event()

    async def read(self, *, after, limit):
        if self.failures:
            self.failures -= 1
            raise TransportError("the hub is away")
        found = self.events[after : after + limit]
        if found:
            return found, found[-1].sequence
        self.drained.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


def consume(store, log, engine, cardinality="MANY"):
    function = definition(TriggerType.EVENT_HUB, cardinality=cardinality)

    async def scenario():
        consumer = EventConsumer(function, log, invoker=invoker(engine, store), store=store, batch_size=2)
        task = asyncio.create_task(consumer.run())
        async with asyncio.timeout(120):
            await log.drained.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
    return [
        [json.loads(body)["n"] for body in made.data.value.bytes]
        if made.data.type == "collection_bytes"
        else json.loads(made.data.value)["n"]
        for made in engine.calls
    ]


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(twin_events, "_FIRST_DELAY", 0.001)


def test_events_are_delivered_in_batches_and_the_checkpoint_follows(store):
    assert consume(store, EventLog(3), RecordingEngine()) == [[1, 2], [3]]
    assert store.checkpoint("one") == 3
    assert consume(store, EventLog(4), RecordingEngine()) == [[4]]


def test_a_function_for_single_events_gets_them_one_by_one(store):
    assert consume(store, EventLog(3), RecordingEngine(), "ONE") == [1, 2, 3]


def test_a_failed_call_is_tried_again_with_the_same_events(store):
    failed = Outcome(error=ValueError("no"))
    assert consume(store, EventLog(3), RecordingEngine(failed, failed)) == [[1, 2], [1, 2], [1, 2], [3]]


def test_events_that_keep_failing_do_not_stop_the_others(store, caplog):
    failures = [Outcome(error=ValueError("no"))] * twin_events.TRIES
    assert consume(store, EventLog(3), RecordingEngine(*failures))[-1] == [3]
    (record,) = [record for record in caplog.records if record.message == "events_passed_over"]
    assert (record.first, record.last) == (1, 2)


def test_a_hub_that_is_away_is_asked_again(store):
    assert consume(store, EventLog(1, failures=3), RecordingEngine()) == [[1]]


def test_an_event_is_what_the_sdk_makes_of_an_event_hubs_message(store):
    seen = []
    function = definition(TriggerType.EVENT_HUB, cardinality="MANY")
    engine = SdkEngine(
        (Callee(definition=function, code=lambda value: seen.extend(value) or None, wants_context=False),),
        folder=Path("/app"),
        threads=1,
    )
    event = HubEvent(
        sequence=5,
        body={"n": 5},
        properties={"deviceId": "edge-01", "opType": "updateTwin"},
        system_properties={
            "iothub-connection-device-id": "edge-01",
            "iothub-enqueuedtime": "2026-01-02T03:04:05.678Z",
        },
    )
    outcome = asyncio.run(twin_events.invoke_with_events(invoker(engine, store), function, [event]))
    engine.close()
    assert outcome.error is None
    (made,) = seen
    assert isinstance(made, func.EventHubEvent)
    assert (made.sequence_number, made.partition_key, json.loads(made.get_body())) == (5, "edge-01", {"n": 5})
    assert made.iothub_metadata["connection-device-id"] == "edge-01"
    assert made.metadata["PropertiesArray"] == [{"deviceId": "edge-01", "opType": "updateTwin"}]
    assert made.enqueued_time.isoformat().startswith("2026-01-02T03:04:05.678")
