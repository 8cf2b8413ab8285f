"""`local-cloud demo`: tell the whole story, or stop one that was kept.

The composition root: puts the world together, runs the steps, and ends everything however it went.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from local_cloud.demo.build_machine import KEY_NAME, BuildMachine, example_folder
from local_cloud.demo.cloud import Cloud
from local_cloud.demo.commands import Commands
from local_cloud.demo.device import Device
from local_cloud.demo.processes import Processes, stop_standing
from local_cloud.demo.report import Report
from local_cloud.demo.steps import STEPS
from local_cloud.demo.transcript import Transcript
from local_cloud.demo.waiting import until
from local_cloud.demo.workspace import Workspace
from local_cloud.demo.world import World
from shared.errors import Conflict, EdbError, NotFound

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

DEFAULT_STATE = Path(".demo")

_INTERRUPTED = 128
"""A shell's exit status for a program that a signal ended, without the signal's number."""

_FOREIGN_SETTINGS = ("CPM_", "CPK_", "CP_", "DEVICE_AGENT_", "EDB_", "IOTEDGE_", "AZURE_", "IDENTITY_")
"""Prefixes of settings that may stand in the caller's environment and are not meant for the demonstration."""

_TRUST_AND_PROXIES = frozenset(
    {"http_proxy", "https_proxy", "all_proxy", "requests_ca_bundle", "ssl_cert_file", "ssl_cert_dir"}
)
"""All traffic stays on the loopback interface, under the local cloud's own root."""


class _Interrupted(BaseException):
    """SIGINT or SIGTERM: end everything, tell it, exit as the signal says."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        default=DEFAULT_STATE,
        help="folder for everything that is written; emptied first (default: %(default)s)",
    )
    ending = parser.add_mutually_exclusive_group()
    ending.add_argument("--keep", action="store_true", help="leave everything running in the end")
    ending.add_argument(
        "--stop", action="store_true", help="stop the demo that is running or kept, and do no more"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        0 when every step did what it should, 1 when one did not, 128 + the signal when interrupted.
    """
    workspace = Workspace(root=args.state.resolve())
    try:
        if args.stop:
            _stop(workspace)
            return 0
        report_file = _writable(args.json)
        demonstration = _prepare(workspace)
    except (EdbError, OSError) as error:
        _complain(error)
        return 1
    return demonstration.run(report_file=report_file, keep=args.keep)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Demonstration:
    """One run of the story."""

    world: World
    transcript: Transcript

    def run(self, *, report_file: Path | None, keep: bool) -> int:
        """Run every step; whatever happens, write the report and leave nothing running that should not be."""
        came = _interrupt_on_signals()
        kept = False
        status = 1
        try:
            self._run_steps(came)
            status = 0
            if keep:
                self.world.processes.keep()
                kept = True
        except _Interrupted as interrupted:
            self.transcript.plain(f"interrupted by {interrupted}")
            status = _INTERRUPTED + interrupted.number
        except Exception as error:  # noqa: BLE001 - the outermost: told, and everything ended
            self._tell_failure(error)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # once is enough: ending must not be interrupted
            if not kept:
                status = self._end() or status
            if report_file:
                report_file.write_text(self.world.report.to_json(), encoding="utf-8")
        if kept:
            _tell_how_to_look_around(self.world, self.transcript)
        if status == 0:
            self.transcript.plain(f"\ndone in {self.transcript.elapsed:.1f} s", style="bold green")
        return status

    def _run_steps(self, came: Sequence[int]) -> None:
        for number, step in enumerate(STEPS, start=1):
            with self.transcript.step(number, len(STEPS), step.name):
                step.run(self.world, self.transcript)
            if came:  # in a finalizer, whose exceptions Python drops
                raise _Interrupted(came[0])

    def _end(self) -> int:
        try:
            self.world.processes.stop()
        except EdbError as error:
            _complain(error)
            return 1
        finally:
            self.world.workspace.remove_sockets()
        return 0

    def _tell_failure(self, error: Exception) -> None:
        kind = "" if isinstance(error, EdbError) else f"{type(error).__name__}: "
        tell = self.transcript.plain
        tell(f"\nfailed: {kind}{error}", style="bold red")
        if isinstance(error, EdbError) and error.hint:
            tell(f"hint: {error.hint}")
        tell("logs:")
        device_logs = [log for device in self.world.devices for log in device.log_files]
        for log in (*self.world.workspace.cloud.glob("*.log"), *self.world.cloud.log_files, *device_logs):
            if log.exists():
                tell(f"  {log}")


def _prepare(workspace: Workspace) -> _Demonstration:
    """Take the state folder and put the world together.

    Raises:
        EdbError: The example or a command is not there, or the folder is in use.
    """
    example = example_folder()
    environment = _environment()
    commands = Commands.beside_interpreter(environment)
    for name in ("cpk-tool", "cpm", "device-agent", "local-cloud"):
        if not Path(commands.path(name)).exists():
            raise NotFound(
                f"{commands.path(name)}: not there", hint="install the project with all its extras"
            )
    lock = workspace.take()
    workspace.make()
    processes = Processes(run_folder=workspace.run, environment=environment, lock=lock)
    processes.enlist()
    cloud = Cloud(workspace.cloud)

    def device(device_id: str, *, genuine: bool) -> Device:
        return Device(
            device_id=device_id,
            genuine=genuine,
            workspace=workspace,
            processes=processes,
            commands=commands,
            cloud=cloud,
        )

    report = Report()
    world = World(
        workspace=workspace,
        processes=processes,
        commands=commands,
        cloud=cloud,
        build_machine=BuildMachine(workspace=workspace, commands=commands, cloud=cloud, example=example),
        edges=(device("edge-01", genuine=True), device("edge-02", genuine=True)),
        rogue=device("rogue-01", genuine=False),
        report=report,
    )
    return _Demonstration(world=world, transcript=Transcript(report.steps))


def _environment() -> Mapping[str, str]:
    """Return what every process sees: the caller's environment, less what is meant for somebody else."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN_SETTINGS) and name.lower() not in _TRUST_AND_PROXIES
    }
    folder = str(Path(sys.executable).parent)
    kept["PATH"] = os.pathsep.join([folder, kept.get("PATH", os.defpath)])
    kept["PYTHONUNBUFFERED"] = "1"  # what a process says is in its log when it has said it
    return kept


def _stop(workspace: Workspace) -> None:
    """End the demonstration that runs in the folder, or what it kept.

    Raises:
        Conflict: Something still holds the folder afterwards.
    """
    if not workspace.run.is_dir():
        print(f"nothing is running in {workspace.root}")
        return
    stop_standing(workspace.run)
    lock = until(lambda: _take_or_none(workspace), what=f"release of {workspace.root}")
    workspace.remove_sockets()
    os.close(lock)
    print(f"stopped; nothing is running in {workspace.root}")


def _take_or_none(workspace: Workspace) -> int | None:
    try:
        return workspace.take()
    except Conflict:
        return None


def _writable(path: Path | None) -> Path | None:
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise NotFound(f"--json {path}: expected a file in a folder that exists")
    return path


def _tell_how_to_look_around(world: World, transcript: Transcript) -> None:
    edge, folders = world.edges[0], world.workspace
    image = _quoted(world.build_machine.example / "data" / "images.jsonl")
    description = _quoted(folders.cloud / "cloud.json")
    # Read when it is used: a key that is printed stands in the terminal's history.
    read = 'import json, sys; print(json.load(sys.stdin)["functions"]["keys"]["admin"])'
    key = f"$(python3 -c '{read}' < {description})"
    device = f"{world.cloud.functions_url}/api/devices/{edge.device_id}"
    cpm, socket = _quoted(world.commands.path("cpm")), _quoted(edge.socket)
    for line in (
        "",
        "everything is left running; look around:",
        f"  {cpm} status --socket {socket}",
        f"  head -1 {image} | {cpm} run {KEY_NAME} --socket {socket}",
        f'  curl --cacert {_quoted(world.cloud.ca_file)} -H "x-functions-key: {key}" {device}',
        f"  cat {description}",
        f"  tail -f {_quoted(edge.folder)}/*.log {_quoted(folders.cloud)}/logs/*.log",
        f"  tail {_quoted(folders.run)}/*.pid        # whatever is killed is started again",
        "stop:",
        f"  {folders.stop_command}",
    ):
        transcript.plain(line)


def _quoted(path: Path | str) -> str:
    """Return a path as a line for a shell writes it."""
    return shlex.quote(str(path))


def _interrupt_on_signals() -> list[int]:
    """Let signals raise :class:`_Interrupted`; return where those that came are noted."""
    came: list[int] = []

    def interrupt(number: int, _frame: object) -> NoReturn:
        came.append(number)
        raise _Interrupted(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    return came


def _complain(error: Exception) -> None:
    print(f"local-cloud: error: {error}", file=sys.stderr)
    if isinstance(error, EdbError) and error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
