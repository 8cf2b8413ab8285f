"""The ``local-cloud`` command: runs a cloud, does what an operator does once, shows the demo.

Results go to standard output, everything else to standard error. Exit status: 0 done, 1 failed, 2 wrong
usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_cloud.state import StateFolder
from local_cloud.up import DEFAULT_SCHEDULE, UpSettings, bring_up
from shared import logs
from shared.errors import EdbError

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_STATE = Path(".local-cloud")

_INTERRUPTED = 130
"""A shell's exit status for a program that Ctrl-C ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parsed = _parser(sys.argv[1:] if arguments is None else arguments)
    try:
        status: int = parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = None  # the reader has gone; nothing is left to flush
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("local-cloud: error: interrupted\n")
        return _INTERRUPTED
    except EdbError as error:
        sys.stderr.write(f"local-cloud: error: {error}\n")
        if error.hint is not None:
            sys.stderr.write(f"hint: {error.hint}\n")
        return 1
    return status


def _parser(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="local-cloud", description="The cloud on one machine.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="run a local cloud in the foreground until it is told to stop")
    _add_state(up)
    up.add_argument("--address", metavar="127.0.0.N", help="loopback address; a free one by default")
    up.add_argument("--timer", metavar="SCHEDULE", default=DEFAULT_SCHEDULE, help="NCRONTAB of the full pass")
    up.add_argument("--app", type=Path, metavar="DIR", help="another function app than the project's")
    up.set_defaults(run=_up)

    enrol = commands.add_parser("enrol", help="create a device in the running hub; prints JSON")
    enrol.add_argument("device_id", metavar="DEVICE_ID")
    enrol.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE", help="twin tag; repeatable")
    enrol.add_argument("--public-key", type=Path, metavar="FILE", help="PEM or DER key to certify")
    enrol.add_argument(
        "--out", type=Path, metavar="DIR", help="also write connection-string, certificate.pem"
    )
    _add_state(enrol)
    enrol.set_defaults(run=_enrol)

    build = commands.add_parser("certify-build", help="certify a build machine's public key; prints JSON")
    build.add_argument("name", metavar="NAME")
    own = build.add_mutually_exclusive_group(required=True)
    own.add_argument("--public-key", type=Path, metavar="FILE", help="PEM or DER key")
    own.add_argument("--out", type=Path, metavar="DIR", help="make the machine's keys and certificates here")
    _add_state(build)
    build.set_defaults(run=_certify_build)

    url = commands.add_parser("url", help="print the address of one of the running cloud's HTTP contracts")
    url.add_argument("contract", metavar="CONTRACT", help="such as WrapKey")
    _add_state(url)
    url.set_defaults(run=_url)

    provision = commands.add_parser("provision", help="have the running cloud make a class key; prints JSON")
    provision.add_argument("key_name", metavar="KEY_NAME")
    _add_state(provision)
    provision.set_defaults(run=_provision)

    demo = commands.add_parser("demo", help="the whole story, from the build machine into two enclaves")
    if arguments[:1] == ["demo"]:  # what it loads is for it alone
        from local_cloud.demo.main import add_arguments, run  # noqa: PLC0415 - as the line above says

        add_arguments(demo)
        demo.set_defaults(run=run)
    return parser.parse_args(arguments)


def _add_state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state", type=Path, default=DEFAULT_STATE, metavar="DIR", help="state folder (default: %(default)s)"
    )


def _up(arguments: argparse.Namespace) -> int:
    logs.configure()
    _stay_on_this_machine()
    settings = UpSettings(
        state=_state(arguments), address=arguments.address, app=arguments.app, schedule=arguments.timer
    )
    asyncio.run(bring_up(settings))
    return 0


def _enrol(arguments: argparse.Namespace) -> int:
    from local_cloud import enrolment  # noqa: PLC0415 - the SDK is slow to load

    _stay_on_this_machine()
    wanted = enrolment.Enrolment(
        device_id=arguments.device_id,
        tags=enrolment.parse_tags(arguments.tag),
        public_key=enrolment.read_public_key(arguments.public_key) if arguments.public_key else None,
    )
    if arguments.out is not None:
        enrolment.make_folder(arguments.out)  # before anybody is enrolled whose papers cannot be kept
    enrolled = enrolment.enrol(_state(arguments), wanted)
    if arguments.out is not None:
        enrolment.write_enrolment(arguments.out, enrolled)
    print(json.dumps(enrolled))
    return 0


def _certify_build(arguments: argparse.Namespace) -> int:
    from local_cloud import enrolment  # noqa: PLC0415 - the SDK is slow to load

    state, name = _state(arguments), arguments.name
    if arguments.out is not None:
        certified = enrolment.equip_build_machine(state, name, arguments.out)
    else:
        certified = enrolment.certify_build(state, name, enrolment.read_public_key(arguments.public_key))
    print(json.dumps(certified))
    return 0


def _url(arguments: argparse.Namespace) -> int:
    functions: Any = _state(arguments).cloud()["functions"]
    print(f"{functions['url']}/api/{arguments.contract}")
    return 0


def _provision(arguments: argparse.Namespace) -> int:
    from local_cloud import enrolment  # noqa: PLC0415 - the SDK is slow to load

    _stay_on_this_machine()
    print(json.dumps(enrolment.provision(_state(arguments), arguments.key_name)))
    return 0


def _state(arguments: argparse.Namespace) -> StateFolder:
    return StateFolder(arguments.state.resolve())


def _stay_on_this_machine() -> None:
    """Keep the SDKs from asking a proxy for loopback addresses."""
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.0/8,localhost"


if __name__ == "__main__":
    sys.exit(main())
