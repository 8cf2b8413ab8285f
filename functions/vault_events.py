"""Vault events: a class key's secret that changed, or came to its end, leads to a full pass.

Event Grid delivers them where the vault's events are subscribed to. They tell sooner than the timer what an
operator did to a secret by hand, and which secrets end.
"""

from __future__ import annotations

import uuid

import azure.functions as func

from functions.distribution_messages import PassMessage
from functions.endpoint import PASSES_QUEUE, QUEUE_CONNECTION

_OF_SECRETS = "Microsoft.KeyVault.Secret"
_OF_CLASS_KEYS = "ck-"  # what the names of their secrets begin with, protocol section 1


def blueprint() -> func.Blueprint:
    """Return the function."""
    functions = func.Blueprint()  # type: ignore[no-untyped-call] # the SDK leaves it untyped

    @functions.function_name(name="DistributeKeyVaultEvents")
    @functions.event_grid_trigger(arg_name="event")
    @functions.queue_output(arg_name="passes", queue_name=PASSES_QUEUE, connection=QUEUE_CONNECTION)
    def distribute_key_vault_events(event: func.EventGridEvent, passes: func.Out[str]) -> None:
        if changes_class_key(event.event_type, event.subject):
            passes.set(PassMessage(cause="vault event", correlation_id=uuid.uuid4().hex).encode())

    return functions


def changes_class_key(event_type: str, subject: str) -> bool:
    """Whether an event is about a class key.

    Args:
        event_type: Event Grid's, such as ``Microsoft.KeyVault.SecretNewVersionCreated``.
        subject: The name of what changed.
    """
    return event_type.startswith(_OF_SECRETS) and subject.startswith(_OF_CLASS_KEYS)
