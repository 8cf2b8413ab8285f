"""The guide from a bare Debian to an enrolled device is run as it stands, in a folder instead of the root.

Debian's and systemd's own programs are stand-ins, for a test is not root and no machine boots: ``sudo`` runs
its command, ``systemctl`` starts what the unit's ExecStart says with the environment that the unit gives, and
``systemd-creds`` keeps secrets unencrypted. The project's programs are the real ones.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from readers.guides import blocks
from simulators import unit_runner

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guides" / "device.md"
SYSTEM_PATH = re.compile(
    r"(?<![\w./\"$}-])(/(?:etc|run|var/lib|usr/bin|usr/local/bin)/)|(?<=[\"'])(/(?:etc|run|usr)/)"
)
FOLDERS = ("etc/systemd/system", "run/cpm", "run/device-agent", "var/lib", "usr/bin", "usr/local/bin")

STAND_INS = {
    "sudo": '#!/bin/bash\nexec "$@"\n',
    "useradd": "#!/bin/sh\n",
    "id": "#!/bin/sh\nexec /usr/bin/id -u\n",
    "shred": '#!/bin/sh\nexec rm "$2"\n',
    "systemd-creds": '#!/bin/sh\nexec cp "$3" "$4"\n',
    "systemd-run": """#!/bin/bash
while [[ $1 == -* ]]; do
    if [[ $1 == -p ]]; then
        shift
        [[ $1 == LoadCredentialEncrypted=* ]] && credential=${1#*=}
        [[ $1 == StateDirectory=* ]] && mkdir -p -m 700 "@ROOT@/var/lib/${1#*=}"
    fi
    shift
done
export CREDENTIALS_DIRECTORY=$(mktemp -d)
cp "${credential#*:}" "$CREDENTIALS_DIRECTORY/${credential%%:*}"
chmod 600 "$CREDENTIALS_DIRECTORY"/*
export DEVICE_AGENT_STATE_DIR=@ROOT@/var/lib/device-agent
"$@"
""",
    "systemctl": '#!/bin/sh\nexec @PYTHON@ -I @RUNNER@ @ROOT@ "$@"\n',
}


@pytest.fixture
def machine(tmp_path):
    """A folder that stands for the device's root, and a shell on it; all that it starts ends with it."""
    root = tmp_path / "root"
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in STAND_INS.items():
        file = programs / name
        filled = text.replace("@PYTHON@", sys.executable).replace("@RUNNER@", unit_runner.__file__)
        file.write_text(filled.replace("@ROOT@", str(root)))
        file.chmod(0o755)
    for name in ("cpm", "device-agent"):
        (root / "usr/bin" / name).symlink_to(Path(sys.executable).with_name(name))
    work = tmp_path / "w"
    work.mkdir()
    for unit in ("cpm.service", "device-agent.service"):
        text = (ROOT / "infra" / "edge" / unit).read_text()
        (work / unit).write_text(at(root, text))
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["timeout", "--signal=KILL", "150", "bash", "-euo", "pipefail", "-c", script],
            cwd=work,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

    cloud_log = (tmp_path / "cloud.log").open("wb")
    command = [sys.executable, "-m", "local_cloud.main", "up", "--state", work / "cloud"]
    cloud = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=cloud_log, text=True)
    try:
        assert cloud.stdout.readline().startswith("ready"), (tmp_path / "cloud.log").read_text()
        yield root, work, run
    finally:
        for pid in (root / "pids").glob("*") if (root / "pids").is_dir() else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid.read_text()), signal.SIGKILL)
        cloud.terminate()
        cloud.wait(timeout=60)
        cloud.stdout.close()
        cloud_log.close()


def at(root: Path, text: str) -> str:
    """Move the system's paths under a folder, and the deployment to the local cloud's."""
    moved = SYSTEM_PATH.sub(lambda found: f"{root}{found[0]}", text)
    return moved.replace("fleet-a", "local")


@pytest.mark.timeout(500)  # waits add up on a machine with much else to do
def test_guide_takes_a_device_to_its_keys(machine):
    root, work, run = machine
    prepared = run(
        "local-cloud provision my_app --state cloud\n"
        "cp cloud/release-key.pem release-signing.pem\n"
        "cp cloud/fleet-ca.pem package-roots.pem; cp cloud/fleet-ca.pem fleet-ca.pem\n"
        "cp cloud/ca.pem hub-ca.pem\n"
    )
    assert prepared.returncode == 0, prepared.stderr

    outputs = []
    for number, (runs, script) in enumerate(blocks(GUIDE)):
        if not runs:
            continue
        done = run(at(root, script))
        logs = "".join(file.read_text()[-3000:] for file in root.glob("*.log"))
        assert done.returncode == 0, f"block {number}:\n{script}\n{done.stdout}\n{done.stderr}\n{logs}"
        outputs.append(done.stdout)

    said = "".join(outputs)
    for line in ("settings: this is edge-01", "certificate: it is for edge-01", "hub sign in: the hub knows"):
        assert f"ok       {line}" in said
    assert "failed" not in said
    assert "class key my_app: version 1" in said
    assert re.search(r"subject=CN ?= ?edge-01", said)
    health = json.loads((root / "run/device-agent/health.json").read_text())
    assert health["certificate"]["matches"] is True
    assert not (work / "connection-string").exists()
    journal = (root / "device-agent.service.log").read_text()
    assert [json.loads(line)["event"] for line in journal.splitlines()].count("certificate_renewed") == 1


@pytest.mark.parametrize("script", [script for _, script in blocks(GUIDE)])
def test_every_command_in_the_guide_is_a_command(script):
    parsed = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)

    assert script.strip()
    assert parsed.returncode == 0, parsed.stderr
    assert parsed.stderr == ""
