"""What each custody costs: the time to unwrap a class key, to start, and the memory of the CPM.

    python bench/custody.py [--rounds 50] [--json FILE]

The TPM is swtpm and the token is tpm2-pkcs11 over it: their figures are those of a processor and a protocol,
and of no chip, which takes what its data sheet says for an RSA operation.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from measuring import Spread
from simulators.cpm_process import Cpm
from simulators.software_tpm import SoftwareTpm
from simulators.tpm_token import TpmToken

from cpm.custody.choice import open_custody, parse_custody
from cpm.custody.port import DeviceKeyType
from shared.keys.wrapping import WrapContext, wrap_key
from shared.types import Audience, KeyName, Secret

CONTEXT = WrapContext(audience=Audience("bench"), device_id="edge-01", name=KeyName("k"), version=1)
_KIBI = 1024
_MILLI = 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", metavar="FILE", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure_all(Path(folder), arguments.rounds)
    for name, figures in report.items():
        told = ", ".join(f"{key} {Spread(**value)}" for key, value in figures.items())
        print(f"{name:18} {told}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def measure_all(folder: Path, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    tpm = SoftwareTpm(_made(folder / "tpm"))
    token = TpmToken(_made(folder / "token"))
    os.environ.update(token.environment)
    report = {}
    try:
        for name, custody, key_type in [
            ("software rsa2048", "software", DeviceKeyType.RSA2048),
            ("software p256", "software", DeviceKeyType.P256),
            ("software x25519", "software", DeviceKeyType.X25519),
            ("tpm2 rsa2048", f"tpm2:{tpm.tcti}", DeviceKeyType.RSA2048),
            ("pkcs11 rsa2048", token.uri("bench"), DeviceKeyType.RSA2048),
        ]:
            where = _made(folder / name.replace(" ", "-"))
            resident, start = measure_process(where, custody, token)
            token.make_room()
            report[name] = {
                "unwrap_ms": measure_unwrap(where / "again", custody, key_type, rounds).document(),
                "start_ms": start.document(),
                "resident_mib": resident.document(),
            }
            token.make_room()
    finally:
        tpm.stop()
        token.close()
    return report


def measure_unwrap(folder: Path, custody: str, key_type: DeviceKeyType, rounds: int) -> Spread:
    choice = parse_custody(custody, pcrs=None, key_type=key_type, where="bench")
    opened = open_custody(choice, _made(folder), key_type=key_type)
    try:
        wrapped = wrap_key(Secret(bytes(32)), opened.public_key, opened.algorithms[0], context=CONTEXT)
        opened.unwrap(wrapped, opened.algorithms[0], context=CONTEXT)
        taken = []
        for _ in range(rounds):
            before = time.perf_counter()
            opened.unwrap(wrapped, opened.algorithms[0], context=CONTEXT)
            taken.append((time.perf_counter() - before) * _MILLI)
    finally:
        opened.close()
    return Spread.of(taken)


def measure_process(folder: Path, custody: str, token: TpmToken) -> tuple[Spread, Spread]:
    """Return MiB resident once a release was applied, and ms from the start to ``ready`` with keys there."""
    cpm = Cpm(folder=folder, custody=custody)
    token.make_room()
    cpm.start()
    assert cpm.stop() == 0
    resident, taken = [], []
    for sequence in range(1, 6):
        token.make_room()
        before = time.perf_counter()
        cpm.start()
        taken.append((time.perf_counter() - before) * _MILLI)
        cpm.apply(sequence)
        status = Path(f"/proc/{cpm.process.pid}/status").read_text()
        resident.append(int(status.split("VmRSS:")[1].split()[0]) / _KIBI)
        assert cpm.stop() == 0
    return Spread.of(resident), Spread.of(taken)


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    return folder


if __name__ == "__main__":
    main()
