"""``edb keys show``: a class key, its versions, and the devices that it was released to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edb.acknowledgement import Goal, Progress
from edb.answers import ClassKey
from edb.key_service import key_service
from edb.options import add_connection, add_json, add_key_name, add_waiting
from edb.output import print_table
from edb.shares import stages_text
from edb.waiting import look, wait_for_devices
from shared.command_line.output import DONE, print_fields, print_json, print_line
from shared.rollout import RolloutState

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_key_name(parser)
    parser.add_argument("--devices", action="store_true", help="also show how far each device is")
    add_waiting(parser, what="wait until every device has acknowledged the newest version and the floor")
    add_connection(parser)
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  edb keys show my_app --devices\n"
        "  edb keys show my_app --wait     # go on waiting after an interrupted `edb keys rotate --wait`"
    )


def run(options: argparse.Namespace) -> int:
    """Show the class key, or wait for its devices."""
    with key_service(options) as service:
        if options.wait:
            return wait_for_devices(service, options.key_name, options)
        document = service.key(options.key_name)
        key = ClassKey.read(document)
        progress = look(service, Goal.of(key)) if options.devices else Progress({})
    if options.json:
        stages = {
            name: {"stage": each.stage.value, "version": each.version, "detail": each.detail}
            for name, each in progress.devices.items()
        }
        print_json({**document, "devices": stages} if options.devices else document)
        return DONE
    _print_key(key)
    if options.devices:
        rows = [
            (name, each.stage.value, each.version, each.detail) for name, each in progress.devices.items()
        ]
        print_line("")
        head = ("device", "stage", "version", "detail")
        print_table(head, rows, empty="no device was released this key")
    return DONE


def _print_key(key: ClassKey) -> None:
    print_line(key.name)
    print_fields(
        {
            "newest version": key.version,
            "floor": key.floor,
            "state": key.state,
            "algorithm": f"{key.algorithm}-{key.strength}",
        }
    )
    if key.rollout is not None and key.rollout.rollout.state is RolloutState.STAGED:
        print_fields({f"rollout of {key.rollout.version}": stages_text(key.rollout.rollout)})
    if key.versions:
        rows = [(each.version, each.state, each.created_at, each.expires_at) for each in key.versions]
        print_line("")
        print_table(("version", "state", "created", "expires"), rows, empty="")
