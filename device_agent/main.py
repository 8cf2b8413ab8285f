"""The ``device-agent`` command: the composition root.

``device-agent run`` keeps running until SIGTERM or SIGINT, which end it with 0. Wrong settings end it with
2, anything else that keeps it from starting with 1. It may be killed at any instant: nothing it does is half
done. ``device-agent check`` says what keeps it from working, ``device-agent install`` hands a package to the
CPM, whichever that is.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from device_agent.certificate import CertificateFile
from device_agent.cpm_choice import cpm_for
from device_agent.inbox import Inbox
from device_agent.outlets import Outlets
from device_agent.settings import Settings, load_settings
from device_agent.state import StateFolder
from device_agent.stopping import Stopped, stopped_by_signals
from device_agent.sync import Agent
from shared import logs
from shared.command_line.lean_parser import LeanParser
from shared.errors import EdbError, PolicyDenied, SettingsError, VerificationError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

CLOSE_SECONDS = 3.0
"""How long the hub's SDK may take to end."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see the module."""
    options = _parser().parse_args(arguments)
    logs.configure("WARNING" if options.command == "check" else "INFO")
    # Its background errors come back to the agent as a lost connection, in its own words.
    logging.getLogger("azure.iot.device").setLevel(logging.CRITICAL)
    if options.command == "check":
        from device_agent.check import check  # noqa: PLC0415 - an agent that runs never needs it

        return check(options.config, os.environ, as_json=options.json)
    try:
        settings = load_settings(options.config, os.environ)
        logging.getLogger().setLevel(settings.log_level)
        if options.command == "install":
            cpm_for(settings).install_package(options.package)
            print(f"{options.package}: installed")
            return 0
        with StateFolder(settings.state_dir) as state:
            run(settings, state)
    except SettingsError as error:
        for problem in error.problems:
            _say("error", problem)
        return EXIT_USAGE
    except EdbError as error:
        _say("error", str(error))
        if error.hint is not None:
            _say("hint", error.hint)
        return EXIT_REFUSED if isinstance(error, VerificationError | PolicyDenied) else EXIT_FAILED
    return 0


def run(settings: Settings, state: StateFolder) -> None:
    """Run the agent until a signal ends it."""
    # The SDK takes 0.3 seconds to import; --help and wrong settings do not wait for it.
    from device_agent.adapters.links import link_for  # noqa: PLC0415

    link, inbox = link_for(settings), Inbox()
    cpm = cpm_for(settings)
    if not cpm.judges_releases:
        logging.getLogger("device_agent").warning(
            "releases_judged_by_the_agent", extra={"reason": "the reference cpm cannot; this is weaker"}
        )
    agent = Agent(
        link=link,
        cpm=cpm,
        certificate=CertificateFile(settings.certificate_file),
        state=state,
        notify=inbox.put,
        renewal=settings.renewal,
        device_roots=settings.device_roots,
    )
    with Outlets(settings) as outlets:
        try:
            with stopped_by_signals():
                _keep_in_step(agent, inbox, outlets)
        except Stopped:
            logging.getLogger("device_agent").info("stopped")
        finally:
            ended = link.close(seconds=CLOSE_SECONDS)
    if not ended:
        # The SDK's threads wait for a hub that will not answer, and would keep the process for good.
        state.close()
        logging.shutdown()
        os._exit(0)


def _keep_in_step(agent: Agent, inbox: Inbox, outlets: Outlets) -> NoReturn:
    while True:
        agent.advance()
        wait = outlets.show(agent.health(), wait=agent.seconds_to_wait())
        event = inbox.get(wait)
        while event is not None:
            agent.handle(event)
            event = inbox.get(0)


def _parser() -> argparse.ArgumentParser:
    parser = LeanParser(
        prog="device-agent",
        description="Keep a device's twin and its Confidential Package Manager in step.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run_command = commands.add_parser("run", help="run the agent until it is told to stop")
    check_command = commands.add_parser(
        "check", help="say what keeps the agent from working, and change nothing"
    )
    check_command.add_argument("--json", action="store_true", help="print what was found as JSON")
    install_command = commands.add_parser("install", help="hand a package to the CPM")
    install_command.add_argument("package", type=Path, metavar="FILE", help="the package, a .cpk file")
    for command in (run_command, check_command, install_command):
        command.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help="settings as TOML; the environment's DEVICE_AGENT_<NAME> goes first",
        )
    return parser


def _say(kind: str, text: str) -> None:
    print(f"device-agent: {kind}: {text}" if kind == "error" else f"{kind}: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
