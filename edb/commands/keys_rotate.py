"""``edb keys rotate``: make the next version of a class key, for all devices at once or in stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edb.answers import ClassKey, StagedVersion
from edb.key_service import key_service
from edb.options import add_connection, add_json, add_key_name, add_waiting
from edb.rolling import roll_out, staged_version
from edb.shares import share, shares
from edb.waiting import wait_for_devices, write_event
from shared.command_line.output import DONE, UsageError, print_json, print_line
from shared.errors import EdbError, FormatError
from shared.rollout import WHOLE, Rollout, RolloutState
from shared.wire.rollout import ABORT, FINISH

if TYPE_CHECKING:
    import argparse

    from edb.key_service import KeyService
    from shared.types import KeyName


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Make the next version of a class key.\n\n"
        "Devices get it and keep the older versions, so that installed packages go on working. Build the\n"
        "package again; revoke the old version once nothing needs it.\n\n"
        "With --canary the version goes to the fleet in stages. A stage reaches a share of the devices,\n"
        "always the same ones; the next one begins when they have acknowledged, and none begins when too\n"
        "many of them fail. Builds get the older version until the last stage is over. How far it is\n"
        "stands with the class key, so that interrupting this command changes nothing."
    )
    add_key_name(parser)
    stages = parser.add_argument_group("in stages")
    ways = stages.add_mutually_exclusive_group()
    ways.add_argument(
        "--canary", type=share, metavar="SHARE", help="the first stage's share, as 1%% or 0.5%%"
    )
    ways.add_argument("--resume", action="store_true", help="go on with a rotation in stages")
    ways.add_argument(
        "--finish", action="store_true", help="give the version of a rotation in stages to all at once"
    )
    ways.add_argument(
        "--abort",
        action="store_true",
        help="give the version of a rotation in stages up; who has got it gets the older one again",
    )
    stages.add_argument(
        "--then",
        type=shares,
        metavar="SHARES",
        help="the further stages' shares, rising to 100%%; that alone by default",
    )
    stages.add_argument(
        "--pause-on-errors",
        type=share,
        metavar="SHARE",
        help="stop where more than this share of a stage's devices fail; 0%% by default",
    )
    stages.add_argument(
        "--acknowledged",
        type=share,
        metavar="SHARE",
        help="go on where this share of the devices that did not fail have acknowledged; 100%% by default",
    )
    add_waiting(parser, what="wait until every device that holds the key has acknowledged the new version")
    add_connection(parser)
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  edb keys rotate my_app --wait\n"
        "  edb keys rotate my_app --wait --json | jq -c 'select(.stage == \"failed\")'\n"
        "  edb keys rotate my_app --canary 1% --then 10%,100% --pause-on-errors 2%\n"
        "  edb keys rotate my_app --resume\n"
        "\n"
        "notes:\n"
        "  --wait only reads: interrupt it when you like; `edb keys show my_app --wait` goes on.\n"
        "  With --wait, --json writes a line for each change and `done` or `timeout` as the last one; in\n"
        "  stages `done`, `paused` or `aborted`. There --timeout is each stage's, and the status is 1 if it\n"
        "  stopped before the end."
    )


def run(options: argparse.Namespace) -> int:
    """Rotate, or go on with a rotation, and wait if asked to."""
    rollout = _rollout(options)
    name = options.key_name
    with key_service(options) as service:
        if options.abort or options.finish:
            return _end(service, name, options)
        if options.resume:
            return _resume(service, name, options)
        answer = service.rotate(name, rollout)
        if options.json and (options.wait or rollout is not None):
            write_event("rotated", answer)
        elif options.json:
            print_json(answer)
        else:
            print_line(f"{name}: version {answer.get('version')} was made")
        if rollout is not None:
            return roll_out(service, name, staged_version(ClassKey.read(service.key(name))), options)
        return wait_for_devices(service, name, options) if options.wait else DONE


def _rollout(options: argparse.Namespace) -> Rollout | None:
    """Return the way to the fleet that the command line asks for; None for none in stages.

    Raises:
        UsageError: The options do not go together, or the shares do not rise to 100%.
    """
    further = (options.then, options.pause_on_errors, options.acknowledged)
    if options.canary is None:
        if any(option is not None for option in further):
            raise UsageError(
                "--then, --pause-on-errors and --acknowledged go with --canary",
                hint="--resume knows what was asked for in the beginning",
            )
        return None
    try:
        return Rollout(
            stages=(options.canary, *(options.then or (WHOLE,))),
            pause_on_errors=options.pause_on_errors or 0,
            acknowledged=WHOLE if options.acknowledged is None else options.acknowledged,
        )
    except FormatError as error:
        raise UsageError(str(error), hint="as in --canary 1% --then 10%,100%") from error


def _resume(service: KeyService, name: KeyName, options: argparse.Namespace) -> int:
    staged = staged_version(ClassKey.read(service.key(name)))
    if staged.rollout.state is RolloutState.ABORTED:
        raise EdbError(
            f"{name}: the rollout of version {staged.version} was aborted",
            code="rollout_aborted",
            hint=f"edb keys rotate {name} makes another version",
        )
    return roll_out(service, name, staged, options)


def _end(service: KeyService, name: KeyName, options: argparse.Namespace) -> int:
    """Abort or finish at once; what has come to that end already stays."""
    action, end = (ABORT, RolloutState.ABORTED) if options.abort else (FINISH, RolloutState.FINISHED)
    document = service.key(name)
    staged: StagedVersion = staged_version(ClassKey.read(document))
    if staged.rollout.state is RolloutState.STAGED:
        stage = staged.rollout.stage
        service.change_rollout(name, version=staged.version, stage=stage, action=action)
        document = service.key(name)
        staged = staged_version(ClassKey.read(document))
    if staged.rollout.state is not end:
        raise EdbError(
            f"{name}: the rollout of version {staged.version} is {staged.rollout.state.value}",
            code="rollout_over",
        )
    if options.json:
        print_json(document)
    else:
        print_line(f"{name}: the rollout of version {staged.version} is {end.value}")
    return DONE
