"""A machine that boots: systemd as the first process of a container over this system's own files.

What is written there goes to memory and ends with it; this system's services are not started. It has no
network but a loopback of its own. Needs root, ``systemd-nspawn`` and the system's own Python of the version
that runs the tests, which finds the project and its dependencies in folders that are mounted read-only.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path("/usr/bin/python3")
BOOT_SECONDS = 60
MODULES = {"cpm": "cpm.main", "device-agent": "device_agent.main", "cpk-tool": "cpk_tool.main"}
MODULES["local-cloud"] = "local_cloud.main"

# Mounts are made in a namespace that ends with the container. nspawn knows no Landlock and would refuse it.
BOOT = """
set -e
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
exec systemd-nspawn --quiet --directory="$1/root" --boot --private-network --register=no --keep-unit \
    --link-journal=no --console=pipe --bind-ro="$2:/opt/project" --bind-ro="$3:/opt/packages" \
    --system-call-filter="landlock_create_ruleset landlock_add_rule landlock_restrict_self" \
    systemd.unit=basic.target
"""
INSTALL = """
python3 -m venv --without-pip /opt/confidential-packages
cd /opt/confidential-packages/lib/python3.*/site-packages
printf '%s\\n' /opt/project /opt/packages > all.pth
"""
PROGRAM = """#!/opt/confidential-packages/bin/python3
import sys
from {module} import main
sys.exit(main())
"""


def why_not() -> str | None:
    """Return what this machine lacks to boot another one, or None."""
    if os.geteuid() != 0:
        return "only root can boot a container"
    if missing := [name for name in ("systemd-nspawn", "nsenter", "unshare") if shutil.which(name) is None]:
        return f"{' '.join(missing)}: not installed"
    if not Path("/lib/systemd/systemd").exists():
        return "systemd is not installed"
    version = subprocess.run([PYTHON, "-V"], capture_output=True, text=True, check=False).stdout.strip()
    if not version.startswith("Python {}.{}.".format(*sys.version_info)):
        return f"{PYTHON} is {version or 'missing'}, the tests' packages are for another Python"
    return None


class BootedMachine:
    """One machine; :meth:`boot` it before anything else, and :meth:`halt` it at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._container: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def boot(self) -> str | None:
        """Boot it and install the programs; return what was refused, or None."""
        log = self._folder / "boot.log"
        mounts = self._folder / "machine"
        mounts.mkdir()
        packages = sysconfig.get_paths()["platlib"]
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", BOOT, "boot"]
        with log.open("wb") as output:
            self._container = subprocess.Popen(
                [*command, mounts, ROOT, packages],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        for _ in range(BOOT_SECONDS * 5):
            if self._container.poll() is not None:
                return log.read_text(errors="replace")[-1000:] or "the container ended"
            if self._find_leader() and self.run("systemctl is-system-running --wait").returncode == 0:
                break
            try:
                self._container.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        else:
            return f"not booted in {BOOT_SECONDS} seconds: {log.read_text(errors='replace')[-1000:]}"
        self.run(INSTALL).check_returncode()
        for name, module in MODULES.items():
            self.write(f"/usr/bin/{name}", PROGRAM.format(module=module), mode=0o755)
        return None

    def _find_leader(self) -> bool:
        children = Path(f"/proc/{self._container.pid}/task/{self._container.pid}/children")
        numbers = children.read_text().split() if children.exists() else []
        self._leader = int(numbers[0]) if numbers else 0
        return self._leader != 0

    def run(self, script: str, *, seconds: int = 120) -> subprocess.CompletedProcess[str]:
        """Run a script of bash there, as root, in ``/srv``."""
        return subprocess.run(
            [
                *("timeout", "--signal=KILL", str(seconds)),
                *("nsenter", "--target", str(self._leader), "--mount", "--uts", "--ipc", "--net", "--pid"),
                *("--cgroup", "env", "-i", "HOME=/root", "LANG=C.UTF-8"),
                *("PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "bash", "-euo", "pipefail", "-c"),
                f"cd /srv\n{script}",
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file there."""
        file = Path(f"/proc/{self._leader}/root{path}")
        file.write_text(text)
        file.chmod(mode)

    def halt(self) -> None:
        """Switch it off."""
        if self._container is not None:
            os.killpg(self._container.pid, signal.SIGTERM)
            try:
                self._container.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self._container.pid, signal.SIGKILL)
                self._container.wait()
