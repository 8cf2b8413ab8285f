"""``device-agent check``: what keeps this device from getting its keys, in plain words.

It looks at the settings, the clock, the state folder, the CPM, the device certificate and the hub, and
changes nothing. It signs in to the hub only if no agent runs on the same state: the hub would throw that out.
Nothing that it prints is a secret.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import TYPE_CHECKING

from device_agent.certificate import MAX_FILE_BYTES, DeviceCertificate
from device_agent.certificate_program import parse_certificate
from device_agent.cpm_choice import cpm_for
from device_agent.device_clock import is_plausible, utc_text
from device_agent.findings import Finding, FoundAs, failed, ok, skipped, warning
from device_agent.reachability import reach
from device_agent.settings import load_settings
from device_agent.sign_in import ClientCertificate, Direct, EdgeModule, Provisioned
from shared.certificates import load_certificates
from shared.errors import EdbError, FormatError, SettingsError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from pathlib import Path

    from device_agent.cpm_client import DeviceKey
    from device_agent.settings import Settings

SOON_SECONDS = 14 * 86400
"""A certificate that ends sooner is warned of."""


def check(config: Path | None, environment: MutableMapping[str, str], *, as_json: bool) -> int:
    """Look at everything and print what was found.

    Returns:
        0 if nothing failed, else 1.
    """
    findings = []
    for finding in diagnose(config, environment):
        findings.append(finding)
        if not as_json:
            print(finding.lines(), flush=True)  # noqa: T201 - the result of the command
    good = all(finding.outcome is not FoundAs.FAILED for finding in findings)
    if as_json:
        document = {"ok": good, "findings": [finding.document() for finding in findings]}
        print(json.dumps(document, indent=2))  # noqa: T201 - the result of the command
    return 0 if good else 1


def diagnose(config: Path | None, environment: MutableMapping[str, str]) -> Iterator[Finding]:
    """Look at one thing after the other."""
    try:
        settings = load_settings(config, environment)
    except SettingsError as error:
        for problem in error.problems:
            yield failed("settings", problem)
        return
    yield ok("settings", f"this is {settings.device_id}")
    now = time.time()
    clock_right = is_plausible(now)
    yield (
        ok("clock", f"it is {utc_text(now)}")
        if clock_right
        else failed("clock", f"it cannot be {utc_text(now)}", hint="set it; certificates are judged by it")
    )
    running, state = _state(settings)
    yield state
    key, found = _cpm(settings)
    yield from found
    yield _certificate(settings, key, now)
    yield from _client_certificate(settings, now)
    yield from _hub(settings, running=running)


def _state(settings: Settings) -> tuple[bool, Finding]:
    """Return whether an agent runs on the state folder, and how the folder is."""
    folder = settings.state_dir
    if not folder.is_dir():
        return False, warning("state", f"{folder} is not there", hint="the agent makes it, if it may")
    if not os.access(folder, os.W_OK | os.X_OK):
        return False, failed("state", f"{folder} cannot be written by uid {os.getuid()}")
    try:
        lock = os.open(folder / "agent.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False, ok("state", f"{folder} is there, and no agent ran on it yet")
    except OSError as error:
        return False, failed("state", f"{folder}/agent.lock: {error.strerror}")
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True, ok("state", f"{folder} is used by an agent that runs")
    finally:
        os.close(lock)
    return False, ok("state", f"{folder} is there, and no agent runs on it")


def _cpm(settings: Settings) -> tuple[DeviceKey | None, list[Finding]]:
    cpm = cpm_for(settings)
    try:
        key, status = cpm.identify(), cpm.status()
    except EdbError as error:
        return None, [failed("cpm", str(error), hint=error.hint or _cpm_hint(settings))]
    fingerprint = key.fingerprint.hex()
    found = [ok("cpm", f"it answers; device key {fingerprint}, last release {status.sequence}")]
    if status.device_id != settings.device_id:
        found.append(
            failed(
                "cpm_device",
                f"the cpm is {status.device_id}, the settings say {settings.device_id}",
                hint="a CPM keeps the id of its first start; one of the two has to change",
            )
        )
    if not cpm.judges_releases:
        found.append(
            warning("cpm_trust", "this CPM cannot judge releases; the agent does, outside of its protection")
        )
    return key, found


def _cpm_hint(settings: Settings) -> str:
    if settings.reference_tool is not None:
        return "does the tool work when the agent's user runs it"
    return f"does cpm serve listen on {settings.cpm_socket}, and may this user, uid {os.getuid()}, connect"


def _certificate(settings: Settings, key: DeviceKey | None, now: float) -> Finding:
    name, path = "certificate", settings.certificate_file
    if path is None:
        return warning(name, "none is set", hint="most policies want one; set certificate_file")
    try:
        data = _read(path, MAX_FILE_BYTES)
        certificate = parse_certificate(data, where=str(path))
        _judge(settings, certificate, key, now)
        parse_certificate(data, where=str(path), roots=settings.device_roots, at=now)
    except FileNotFoundError:
        hint = "it is asked for when the agent runs" if settings.renewal else "enrol the device"
        return failed(name, f"{path} is not there", hint=hint)
    except OSError as error:
        return failed(name, f"{path}: {error.strerror}")
    except EdbError as error:
        return failed(name, str(error), hint=error.hint)
    return _until(name, f"it is for {settings.device_id} and its device key", certificate.not_after, now)


def _judge(settings: Settings, certificate: DeviceCertificate, key: DeviceKey | None, now: float) -> None:
    """Hold a certificate to what the cloud will hold it to.

    Raises:
        VerificationError: It does not hold.
    """
    if key is not None and certificate.leaf_spki != key.spki:
        raise VerificationError(
            "it is for another key than the CPM's", hint="have one issued for `cpk-tool pub-key`"
        )
    if (named := certificate.device_id) != settings.device_id:
        raise VerificationError(f"it names {named or 'no device'}, not {settings.device_id}")
    if not certificate.not_before <= now < certificate.not_after:
        raise VerificationError(
            f"it is valid from {utc_text(certificate.not_before)} to {utc_text(certificate.not_after)}"
        )


def _until(name: str, text: str, not_after: float, now: float) -> Finding:
    days = int((not_after - now) // 86400)
    text = f"{text}, and valid for {days} more days"
    return ok(name, text) if not_after - now > SOON_SECONDS else warning(name, text, hint="renew it")


def _client_certificate(settings: Settings, now: float) -> Iterator[Finding]:
    way = settings.sign_in
    if not isinstance(way, Direct | Provisioned) or not isinstance(way.credential, ClientCertificate):
        return
    name, files = "client_certificate", way.credential
    try:
        leaf = load_certificates(
            _read(files.certificate_file, MAX_FILE_BYTES), where=str(files.certificate_file)
        )[0]
        _read(files.key_file, MAX_FILE_BYTES)
    except OSError as error:
        yield failed(name, f"{error.filename}: {error.strerror}")
    except FormatError as error:
        yield failed(name, str(error))
    else:
        end = leaf.not_valid_after_utc.timestamp()
        if now >= end:
            yield failed(
                name, f"it ended at {utc_text(end)}", hint="renew it; it is read at every connection"
            )
        else:
            yield _until(name, f"{files.certificate_file} is there, with its key", end, now)


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit + 1)


def _hub(settings: Settings, *, running: bool) -> Iterator[Finding]:
    if isinstance(settings.sign_in, EdgeModule):
        yield skipped("hub_certificate", "IoT Edge's workload API names the roots")
        reached = True
    else:
        steps = []
        for host in settings.sign_in.hosts:
            for step in reach(host, ca_pem=settings.ca_pem):
                steps.append(step)
                yield step
        reached = all(step.outcome is FoundAs.OK for step in steps)
    if not reached:
        yield skipped("hub_sign_in", "the hub cannot be reached")
    elif running:
        yield skipped(
            "hub_sign_in", "an agent runs with this identity, and would be thrown out; see its health file"
        )
    else:
        yield _sign_in(settings)


def _sign_in(settings: Settings) -> Finding:
    from device_agent.adapters.links import link_for  # noqa: PLC0415 - the SDK is slow to import

    link = link_for(settings, remember=False)
    try:
        link.connect(lambda _event: None)
        twin = link.get_twin()
    except EdbError as error:
        return failed("hub_sign_in", str(error), hint=error.hint)
    finally:
        link.close(seconds=3.0)
    return ok(
        "hub_sign_in", f"the hub knows {settings.device_id}; its twin is at version {twin.desired.version}"
    )
