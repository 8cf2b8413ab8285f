"""The story, step by step: what happens, what must be true then, and what is told of it.

Each step takes the world and the transcript, and raises an :class:`~shared.errors.EdbError` when something is
not as it must be. What a step waits for is a condition with a limit; whatever was killed meanwhile comes back
and the step goes on, so every run ends in the same state.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from local_cloud.demo import evidence
from local_cloud.demo.build_machine import KEY_NAME
from local_cloud.demo.processes import check_log
from local_cloud.demo.waiting import until
from local_cloud.demo.world import on_each
from shared.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from local_cloud.demo.device import Device
    from local_cloud.demo.transcript import Transcript
    from local_cloud.demo.world import World

FIRST, SECOND = "1.0", "1.1"
"""Versions of the package, sealed under versions 1 and 2 of the class key."""

MIN_ACCURACY = 0.95
"""On the held-out images; a device that scores less does not run the model that was built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step's name and what it does."""

    name: str
    run: Callable[[World, Transcript], None]


def start_cloud(world: World, transcript: Transcript) -> None:
    """Start twin hub, key vault and functions host; make the build machine's and the vendor's keys."""
    log = world.workspace.cloud / "local-cloud.log"
    command = [world.commands.path("local-cloud"), "up", "--state", str(world.workspace.cloud)]
    world.processes.start("local-cloud", command, log=log)
    world.build_machine.make_keys()
    until(lambda: _says_ready(log), what=f"start of the local cloud (log: {log})")
    about = world.cloud.description
    transcript.tell(f"twin hub      {about['hub']['host']}: MQTT over TLS for devices, HTTPS for services")
    transcript.tell(f"key vault     {about['vault']['url']}")
    transcript.tell(f"function app  {about['functions']['url']}")


def start_devices(world: World, transcript: Transcript) -> None:
    """Start a package manager on each device, enrol it over the key that it made, start its agent."""

    def bring_up(device: Device) -> None:
        device.start_cpm(vendor_ca=world.build_machine.vendor_ca)
        device.enrol()
        device.start_agent()

    on_each(world.devices, bring_up)
    for device in world.edges:
        transcript.tell(f"{device.device_id}   key made by its CPM, certified by the fleet CA")
    transcript.tell(
        f"{world.rogue.device_id}  enrolled alike, but with a self-made certificate in the fleet CA's name"
    )


def provision_key(world: World, transcript: Transcript) -> None:
    """Make the class key."""
    world.asked_for_key_at = dt.datetime.now(dt.UTC)
    world.build_machine.provision()
    transcript.tell(f"{KEY_NAME} version 1, AES-256; at rest only as JWE under a key that stays in the vault")


def build_package(world: World, transcript: Transcript) -> None:
    """Build the example and seal it under the class key, which the build machine gets under policy."""
    world.build_machine.certify()
    _build(world, transcript, FIRST, key_version=1)


def release_keys(world: World, transcript: Transcript) -> None:
    """Wait until both devices hold the class key and have proved it."""
    acknowledged = _await_key(world, version=1)
    rows = []
    for device, (wrapped, kcv) in zip(world.edges, acknowledged, strict=True):
        took = _time_to_key(world, device)
        rows.append([device.device_id, took, wrapped[:24] + "…", kcv])
    if len({wrapped for wrapped, _ in acknowledged}) != len(acknowledged):
        raise VerificationError("the class key was wrapped alike for two devices")
    transcript.tell("reported, released, unwrapped and acknowledged:")
    transcript.table(["device", "report to key", "wrapped key (base64)", "key check value"], rows)
    transcript.tell(
        "a check value is bound to its device; each is the one that the build machine's copy of the"
    )
    transcript.tell("key gives for that device, so both hold the same key, and no two wrapped keys are alike")


def run_on_devices(world: World, transcript: Transcript) -> None:
    """Install the package on both devices and classify images there."""
    _install_and_check(world, transcript, FIRST)
    images = evidence.load_images(world.build_machine.example / "data" / "images.jsonl")
    found = on_each(world.edges, lambda device: evidence.classify(device, images))
    rows = [["true label", *(str(image["label"]) for image in images)]]
    rows += [
        [device.device_id, *map(str, predictions)]
        for device, predictions in zip(world.edges, found, strict=True)
    ]
    transcript.tell(f"the {len(images)} shipped sample images:")
    transcript.table(["image", *(str(image["id"]) for image in images)], rows)


def show_refusal(world: World, transcript: Transcript) -> None:
    """Show that the rogue got nothing, and that no secret stands in any file."""
    rogue = world.rogue
    reason = until(lambda: evidence.denial(rogue), what=f"{rogue.device_id}: denial in its twin's tags")
    transcript.tell(f"{rogue.device_id} is tagged denied: {reason}")
    audited = until(lambda: evidence.audit_of_denial(rogue), what=f"audit line about {rogue.device_id}")
    shown = {name: audited.get(name) for name in ("event", "outcome", "device_id", "reason", "detail")}
    transcript.tell(f"audit log: {json.dumps(shown)}")
    held = rogue.newest_keys()
    if held or rogue.twin().wrapped_key(KEY_NAME):
        raise VerificationError(f"{rogue.device_id}: expected no class key, found {sorted(held)}")
    transcript.tell("its CPM holds no key; asked to install the package, it refuses:")
    transcript.tell(f"  {rogue.refuse(world.build_machine.package(FIRST))}")
    _scan(world, transcript)


def rotate_and_revoke(world: World, transcript: Transcript) -> None:
    """Rotate the key, update both devices, revoke version 1, and try the old package again."""
    world.build_machine.rotate(to=2)
    transcript.tell(f"rotated {KEY_NAME}: version 2")
    _build(world, transcript, SECOND, key_version=2)
    _await_key(world, version=2)
    transcript.tell("both devices acknowledged version 2")
    _install_and_check(world, transcript, SECOND)
    floor = world.build_machine.revoke(1)
    on_each(world.edges, partial(_await_floor, floor=floor))
    transcript.tell(f"revoked version 1: no device takes a version below {floor} any more")
    old = world.build_machine.package(FIRST)
    refusals = on_each(world.edges, lambda device: device.refuse(old))
    for device, refusal in zip(world.edges, refusals, strict=True):
        transcript.tell(f"{device.device_id} refuses package {FIRST}: {refusal}")


def summarise(world: World, transcript: Transcript) -> None:
    """Tell the final state of every device, and look for leaks in all that was written."""
    records = on_each(world.devices, partial(evidence.record, world))
    rows = []
    for device, record in zip(world.devices, records, strict=True):
        world.report.devices[device.device_id] = record
        rows.append(
            [
                device.device_id,
                record.state,
                record.reason or "-",
                ", ".join(f"{name} v{version}" for name, version in record.keys.items()) or "-",
                ", ".join(f"{name} {version}" for name, version in record.packages.items()) or "-",
                "-" if record.accuracy is None else f"{record.accuracy:.1%}",
            ]
        )
    transcript.table(["device", "state", "reason", "keys", "packages", "accuracy"], rows)
    _scan(world, transcript)


STEPS = (
    Step(name="start the local cloud", run=start_cloud),
    Step(name="enrol and start three devices", run=start_devices),
    Step(name="provision the class key", run=provision_key),
    Step(name="build the confidential package", run=build_package),
    Step(name="release the class key to the devices", run=release_keys),
    Step(name="install and run on both devices", run=run_on_devices),
    Step(name="refuse the rogue and look for leaks", run=show_refusal),
    Step(name="rotate, update and revoke", run=rotate_and_revoke),
    Step(name="sum up", run=summarise),
)
"""The whole story."""


def _says_ready(log: Path) -> bool | None:
    check_log(log)
    if not log.exists():
        return None
    return any(line.startswith("ready") for line in log.read_text(errors="replace").splitlines()) or None


def _build(world: World, transcript: Transcript, version: str, *, key_version: int) -> None:
    machine = world.build_machine
    machine.build(version)
    world.class_keys[key_version] = machine.class_key(key_version)
    clear, sealed = machine.workload(version).stat().st_size, machine.package(version).stat().st_size
    transcript.tell(
        f"{machine.package(version).name}: {clear:,} bytes of Python and model, sealed under version "
        f"{key_version} of the class key into {sealed:,} bytes, and signed"
    )


def _await_key(world: World, *, version: int) -> list[tuple[str, str]]:
    """Wait for both devices' acknowledgement; return wrapped key and check value of each."""
    return on_each(
        world.edges,
        lambda device: until(
            lambda: evidence.acknowledged_key(world, device, version=version),
            what=f"{device.device_id}: acknowledgement of {KEY_NAME} version {version}",
        ),
    )


def _await_floor(device: Device, *, floor: int) -> None:
    until(
        lambda: evidence.floor_reached(device, floor=floor),
        what=f"{device.device_id}: floor {floor} of {KEY_NAME}",
    )


def _time_to_key(world: World, device: Device) -> str:
    if world.asked_for_key_at is None:
        raise AssertionError("the class key is provisioned in an earlier step")
    took = evidence.time_to_key_ms(list(device.events()), asked_at=world.asked_for_key_at)
    if took is None:
        return "not measured"
    world.report.times_to_key_ms.append(took)
    return f"{took:.0f} ms"


def _install_and_check(world: World, transcript: Transcript, version: str) -> None:
    """Install a package on both devices, ask the workload who it is, and measure it."""
    package = world.build_machine.package(version)
    held_out = evidence.load_images(world.build_machine.example / "data" / "held_out.jsonl")

    def update(device: Device) -> float:
        device.install(package)
        found = device.run(KEY_NAME, "--version").strip()
        if found != version:
            raise VerificationError(f"{device.device_id}: expected workload {version}, found {found!r}")
        return evidence.accuracy(evidence.classify(device, held_out), held_out)

    for device, share in zip(world.edges, on_each(world.edges, update), strict=True):
        world.accuracy[device.device_id] = share
        transcript.tell(
            f"{device.device_id} runs {version}: {share:.1%} of {len(held_out)} held-out images right"
        )
        if share < MIN_ACCURACY:
            raise VerificationError(f"{device.device_id}: expected accuracy {MIN_ACCURACY}, found {share}")


def _scan(world: World, transcript: Transcript) -> None:
    result = evidence.scan(world)
    world.report.leaks_found = len(result.leaks)
    for leak in result.leaks:
        transcript.tell(f"LEAK: {leak.what} in {leak.file} at byte {leak.offset}")
    if result.leaks:
        raise VerificationError(f"{len(result.leaks)} leaks of key or model in {result.files} files")
    transcript.tell(
        f"no class key and no 64 bytes of the model in {result.files} files ({result.size / 1e6:.1f} MB), "
        "the build machine's source folder left out"
    )
