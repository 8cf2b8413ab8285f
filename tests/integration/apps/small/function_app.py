"""A small function app with one function of every kind that the local functions host serves."""

import json
import logging
import threading
from typing import List  # noqa: UP035 - as above, below

import azure.functions as func
from azure.identity import ManagedIdentityCredential

log = logging.getLogger("small")
app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
seen = {"work": [], "timer": [], "twins": [], "grid": [], "third": []}
broken = {"twins": 2}


def answer(document, status=200):
    return func.HttpResponse(json.dumps(document), status_code=status, mimetype="application/json")


@app.route(route="items/{item_id:int?}", methods=["POST"])
@app.queue_output(arg_name="message", queue_name="%WORK_QUEUE%", connection="AzureWebJobsStorage")
def create_item(req: func.HttpRequest, message: func.Out[str], context: func.Context) -> func.HttpResponse:
    """Answer what came, and put it on the queue."""
    item = {"id": req.route_params.get("item_id"), "body": req.get_json()}
    message.set(json.dumps(item))
    log.info("item_created")
    document = {
        **item,
        "query": dict(req.params),
        "url": req.url,
        "headers": dict(req.headers),
        "function": context.function_name,
        "invocation": context.invocation_id,
        "trace": context.trace_context.trace_parent,
        "thread": threading.current_thread().name,
    }
    headers = {"X-Made-By": "create_item"}
    return func.HttpResponse(
        json.dumps(document), status_code=201, mimetype="application/json", headers=headers
    )


@app.route(route="health", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
async def health(req: func.HttpRequest) -> func.HttpResponse:
    """Answer with a cookie."""
    return func.HttpResponse("ok", headers={"Set-Cookie": "a=b; HttpOnly"})


@app.route(route="boom", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
def boom(req: func.HttpRequest) -> func.HttpResponse:
    """Fail."""
    raise RuntimeError("boom")


@app.route(route="owner", methods=["GET"], auth_level=func.AuthLevel.ADMIN)
def owner(req: func.HttpRequest) -> func.HttpResponse:
    """Answer the holder of the master key."""
    return answer({})


@app.route(route="files/{*path}", methods=["GET"])
def files(req: func.HttpRequest) -> func.HttpResponse:
    """Answer the rest of the path."""
    return answer({"path": req.route_params.get("path")})


@app.route(route="seen", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
def what_was_seen(req: func.HttpRequest) -> func.HttpResponse:
    """Answer what the other functions saw."""
    return answer(seen)


@app.route(route="token", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
def token(req: func.HttpRequest) -> func.HttpResponse:
    """Answer the token that the app's managed identity gets."""
    with ManagedIdentityCredential() as credential:
        return answer({"token": credential.get_token(req.params["scope"]).token})


@app.queue_trigger(arg_name="message", queue_name="%WORK_QUEUE%", connection="AzureWebJobsStorage")
def work(message: func.QueueMessage) -> None:
    """Note a message; one that says so fails for ever, another fails once."""
    body = json.loads(message.get_body())["body"]
    seen["work"].append({"body": body, "tries": message.dequeue_count})
    if body == "poison" or (body == "again" and message.dequeue_count == 1):
        raise ValueError("cannot work on this")


@app.queue_trigger(arg_name="message", queue_name="second-items", connection="AzureWebJobsStorage")
@app.queue_output(arg_name="$return", queue_name="third-items", connection="AzureWebJobsStorage")
def second(message: func.QueueMessage) -> list[str]:
    """Pass a message on as two."""
    text = message.get_body().decode()
    return [f"{text} a", f"{text} b"]


@app.queue_trigger(arg_name="message", queue_name="third-items", connection="AzureWebJobsStorage")
async def third(message: func.QueueMessage) -> None:
    """Note a message."""
    seen["third"].append(message.get_body().decode())


@app.timer_trigger(arg_name="timer", schedule="%TICK%", run_on_startup=True)
def tick(timer: func.TimerRequest) -> None:
    """Note a tick."""
    seen["timer"].append(timer.past_due)


@app.event_hub_message_trigger(
    arg_name="events", event_hub_name="%EVENTS%", connection="EVENTS", cardinality=func.Cardinality.MANY
)
def twins(events: List[func.EventHubEvent]) -> None:  # noqa: UP006 - the SDK knows typing.List only
    """Note events, after failing twice."""
    if broken["twins"]:
        broken["twins"] -= 1
        raise ValueError("not yet")
    for number, event in enumerate(events):
        seen["twins"].append(
            {
                "sequence": event.sequence_number,
                "body": json.loads(event.get_body()),
                "device": event.iothub_metadata.get("connection-device-id"),
                "properties": event.metadata["PropertiesArray"][number],
            }
        )


@app.event_grid_trigger(arg_name="event")
def grid(event: func.EventGridEvent) -> None:
    """Note an Event Grid event."""
    seen["grid"].append({"id": event.id, "type": event.event_type})
