"""The shipped units under a systemd that booted: the guide as it stands, with systemd's own programs."""

import json
import re
import shutil
from pathlib import Path

import pytest
from readers.guides import blocks
from simulators import booted_machine
from simulators.booted_machine import BootedMachine

from cpm import landlock

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "device.md"
EDGE = Path(__file__).resolve().parents[2] / "infra" / "edge"

# What the guide takes for given: a cloud, and files that whoever runs it gives.
PREPARE = """
systemctl start dbus || true
cp /opt/project/infra/edge/*.service .
setsid local-cloud up --state cloud > cloud.out 2> cloud.log < /dev/null &
until grep -qs ^ready cloud.out; do sleep 0.1; done
local-cloud provision my_app --state cloud
local-cloud certify-build build-01 --out vendor --state cloud
cp cloud/release-key.pem release-signing.pem
cp cloud/fleet-ca.pem fleet-ca.pem
cp vendor/vendor-ca.pem package-roots.pem
cp cloud/ca.pem hub-ca.pem
"""

WORKLOAD = r"""
cat > app.sh << 'END'
#!/bin/sh
read -r line
echo "$line from $(id -u)"
ls /var/lib/cpm
exit 7
END
cpk-tool build -i app.sh -o app.cpk -a my_app -n App -v Vendor --package-version 1.0.0 \
    -e http -k "$(local-cloud url WrapKey --state cloud)" --function-key-file vendor/wrap.function-key \
    --ca-file cloud/ca.pem --client-key vendor/build.key --client-cert vendor/build.pem \
    --sign-key vendor/signing.key --cert vendor/signing.pem
cpk-tool install -p app.cpk --socket /run/cpm/cpm.sock
echo hello | cpm run my_app --socket /run/cpm/cpm.sock || echo "status $?"
"""


@pytest.fixture
def machine(tmp_path):
    if (reason := booted_machine.why_not() or landlock.why_not()) is not None:
        pytest.skip(f"no machine can be booted here: {reason}")
    machine = BootedMachine(tmp_path)
    try:
        if (refused := machine.boot()) is not None:
            pytest.skip(f"no machine can be booted here: {refused}")
        if shutil.which("sudo") is None:
            machine.write("/usr/bin/sudo", '#!/bin/bash\nexec "$@"\n', mode=0o755)
        yield machine
    finally:
        machine.halt()


def checked(machine: BootedMachine, script: str) -> str:
    done = machine.run(script)
    if done.returncode != 0:
        told = machine.run("journalctl --no-pager -o cat -u cpm -u device-agent | tail -40; cat cloud.log")
        pytest.fail(f"{script}\n{done.stdout}\n{done.stderr}\n{told.stdout}")
    return done.stdout


@pytest.mark.timeout(900)  # a machine boots, and has a cloud of its own
def test_units_take_a_machine_that_boots_to_its_keys_and_run_a_workload(machine):
    checked(machine, PREPARE)

    said = "".join(
        checked(machine, script.replace("fleet-a", "local")) for runs, script in blocks(GUIDE) if runs
    )

    assert "ok       hub sign in: the hub knows edge-01" in said
    assert "class key my_app: version 1" in said
    assert re.search(r"subject=CN ?= ?edge-01", said)
    for unit in ("cpm", "device-agent"):
        process = status_of(machine, unit)
        assert process["CapEff"] == "0000000000000000"
        assert (process["NoNewPrivs"], process["Seccomp"]) == ("1", "2")
        assert checked(machine, f"systemctl show -P NRestarts {unit}") == "0\n"
    locked = int(status_of(machine, "cpm")["VmLck"].split()[0]) > 0
    assert locked or '"memory_lock", "outcome": "skipped"' in checked(machine, "journalctl -o cat -u cpm")
    assert machine.run("ls /run/cpm/cpm.sock && runuser -u nobody -- cpm status").returncode != 0

    ran = checked(machine, WORKLOAD)
    uid = checked(machine, "id -u cpm").strip()
    assert f"hello from {uid}\nstatus 7\n" in ran

    checked(machine, "systemctl kill --signal=KILL cpm; until cpm status > status; do sleep 0.2; done")
    assert "my_app: App 1.0.0, installed" in checked(machine, "cat status")
    checked(machine, "systemctl stop device-agent cpm")
    told = checked(machine, "journalctl --no-pager -o cat -u device-agent").splitlines()
    events = [json.loads(line)["event"] for line in told if line.startswith("{")]
    assert events[-1] == "stopped"
    assert checked(machine, "systemctl show -P Result cpm device-agent").split() == ["success", "success"]


def status_of(machine: BootedMachine, unit: str) -> dict[str, str]:
    text = checked(machine, f"cat /proc/$(systemctl show -P MainPID {unit})/status")
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
