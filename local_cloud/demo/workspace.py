"""The demonstration's folders: one for each machine that a real deployment would have.

```
cloud/                 the local cloud's own state and logs
build-machine/         the build machine: its keys, its packages, and source/, where the model stands in clear
devices/DEVICE/        a device: its CPM's sealed store, its agent's state, settings and logs
run/                   process ids
sockets/               the CPMs' Unix sockets
```
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from shared.errors import Conflict

_MARK = ".local-cloud-demo"
"""Stands in every state folder; nothing is removed from a folder without it."""

_LONGEST_SOCKET_PATH = 100
"""Bytes; Linux takes 107 (unix(7), sun_path)."""

_LONGEST_SOCKET_NAME = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The state folder.

    Attributes:
        root: Its absolute path.
    """

    root: Path

    @property
    def cloud(self) -> Path:
        """State folder of the local cloud."""
        return self.root / "cloud"

    @property
    def build_machine(self) -> Path:
        """Everything that the build machine has."""
        return self.root / "build-machine"

    @property
    def source(self) -> Path:
        """The build machine's source folder: the model may stand here in clear, and nowhere else."""
        return self.build_machine / "source"

    @property
    def devices(self) -> Path:
        """A folder for each device."""
        return self.root / "devices"

    @property
    def run(self) -> Path:
        """Process ids."""
        return self.root / "run"

    @property
    def sockets(self) -> Path:
        """Folder of the CPMs' sockets; elsewhere, if the state folder's own path is too long for them."""
        return (self.root / "sockets").resolve()

    @property
    def stop_command(self) -> str:
        """The line for a shell that ends what runs here; ``make demo`` puts no command on the path."""
        command = Path(sys.executable).parent / "local-cloud"
        return shlex.join([str(command), "demo", "--stop", "--state", str(self.root)])

    def take(self) -> int:
        """Lock the folder, making it if it is not there; the lock lasts until its descriptor is closed.

        Returns:
            The descriptor.

        Raises:
            Conflict: A demonstration is running or kept here, or the folder holds something else.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._lock(lock)
            self._check_it_is_ours()
        except BaseException:
            os.close(lock)
            raise
        return lock

    def make(self) -> None:
        """Remove what an earlier run left and make the folders; the caller holds the lock."""
        self.remove_sockets()
        for path in self.root.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        (self.root / _MARK).touch()
        for folder in (self.cloud, self.build_machine, self.source, self.devices, self.run):
            folder.mkdir(mode=0o700)
        sockets = self.root / "sockets"
        if len(os.fsencode(sockets)) + _LONGEST_SOCKET_NAME < _LONGEST_SOCKET_PATH:
            sockets.mkdir(mode=0o700)
        else:
            sockets.symlink_to(tempfile.mkdtemp(prefix="demo-sockets-"))

    def remove_sockets(self) -> None:
        """Remove the sockets' folder if it is not inside the state folder."""
        if (self.root / "sockets").is_symlink():
            shutil.rmtree(self.sockets, ignore_errors=True)

    def _lock(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"{self.root}: a demo is still running here",
                code="in_use",
                hint=f"stop it with: {self.stop_command}",
            ) from error

    def _check_it_is_ours(self) -> None:
        if any(self.root.iterdir()) and not (self.root / _MARK).exists():
            raise Conflict(
                f"{self.root}: expected an empty folder or an earlier demo's, found other files",
                code="not_ours",
                hint="name another folder with --state",
            )
