"""Drives the platform's own worker library over the function app, in a process of its own; prints JSON.

python -m simulators.worker_driver FOLDER       FOLDER holds function_app.py and host.json
"""

from __future__ import annotations

import asyncio
import json
import sys
import types
import uuid

import azure_functions_runtime as worker
from simulators.worker_messages import SUCCESS, ParameterBinding, TypedData, request


async def drive(folder: str) -> dict[str, object]:
    """Do what the worker does at its start, and two invocations."""
    worker.start_threadpool_executor()
    started = await worker.worker_init_request(
        request(worker_init_request=types.SimpleNamespace(capabilities={}, function_app_directory=folder))
    )
    if started.result.status != SUCCESS:
        raise SystemExit(started.result.exception.message)
    metadata = await worker.functions_metadata_request(request())
    functions = {each.name: each for each in metadata.function_metadata_results}
    for function in functions.values():
        load = types.SimpleNamespace(function_id=function.function_id)
        loaded = await worker.function_load_request(request(function_load_request=load))
        if loaded.result.status != SUCCESS:
            raise SystemExit(f"{function.name}: {loaded.result.exception.message}")

    async def call(name: str, method: str, path: str) -> tuple[int, str]:
        http = types.SimpleNamespace(
            method=method,
            url=f"https://app.test/api/{path}",
            headers={},
            params={},
            query={},
            body=TypedData(bytes=b""),
        )
        outcome = await worker.invocation_request(
            request(
                invocation_request=types.SimpleNamespace(
                    invocation_id=str(uuid.uuid4()),
                    function_id=functions[name].function_id,
                    input_data=[ParameterBinding(name="req", data=TypedData(http=http))],
                    trigger_metadata={},
                    trace_context=types.SimpleNamespace(trace_parent="", trace_state="", attributes={}),
                    retry_context=types.SimpleNamespace(retry_count=0, max_retry_count=0, exception=None),
                )
            )
        )
        if outcome.result.status != SUCCESS:
            raise SystemExit(f"{name}: {outcome.result.exception.message}")
        answer = outcome.return_value.http
        return int(answer.status_code), bytes(answer.body.bytes).decode()

    told = {
        "loaded": sorted(functions),
        "routes": [
            text for each in functions.values() for text in each.raw_bindings if '"httpTrigger"' in text
        ],
        "health": await call("Health", "GET", "health"),
        "get_provision": await call("ProvisionKey", "GET", "ProvisionKey"),
    }
    worker.stop_threadpool_executor()
    return told


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(drive(sys.argv[1]))) + "\n")
