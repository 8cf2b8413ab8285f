"""What confines a workload: a port with three adapters, and how the strongest that works here is found.

============ ==================================== ============================ ==============================
adapter      files                                network                      other processes
============ ==================================== ============================ ==============================
bubblewrap   a tree of its own, read-only, with   a namespace of its own,      a PID namespace of its own
             a private ``/tmp`` and ``/proc``     empty unless it is allowed
landlock     the same folders to read, nothing    no sockets; if allowed, all  no tracing, no signals (6.12)
             to write                             but Unix ones
none         the CPM's own                        the CPM's own                its own user's
============ ==================================== ============================ ==============================

Neither sandbox shows the CPM's state folder or its socket. Landlock needs no namespace: it is the one that
works inside a systemd unit with ``RestrictNamespaces=``.
"""

from __future__ import annotations

import enum
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from cpm import landlock
from shared.errors import EdbError

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
"""Where programs are looked for: a workload's ``PATH``, and where ``bwrap`` must be."""

PROBE_SECONDS: Final = 30.0
"""How long the trial of a sandbox may take at the start."""

_NOBODY = "65534"
_TMPFS_BYTES = str(64 << 20)


class SandboxChoice(enum.Enum):
    """What can be asked for."""

    AUTO = "auto"
    BUBBLEWRAP = "bubblewrap"
    LANDLOCK = "landlock"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What the launcher has to do to confine one workload.

    Args:
        wrapper: A program and its options that run the payload inside; empty to run it directly.
        landlock: Whether the launcher confines itself by :mod:`cpm.landlock` first.
    """

    wrapper: tuple[str, ...] = ()
    landlock: bool = False


class Sandbox(Protocol):
    """Confines workloads."""

    @property
    def choice(self) -> SandboxChoice:
        """Which one it is; never ``AUTO``."""

    def confinement(self, *, network: bool) -> Confinement:
        """Return how one workload is confined.

        Args:
            network: Whether it may use the network that the CPM has.
        """

    def why_not(self) -> str | None:
        """Return why it does not work on this system, or None if it does; tried, not guessed."""


class Unconfined:
    """No sandbox beyond the one that the CPM itself stands in."""

    choice = SandboxChoice.NONE

    def confinement(self, *, network: bool) -> Confinement:  # noqa: ARG002 - whatever it is, nothing changes
        """Confine nothing."""
        return Confinement()

    def why_not(self) -> str | None:
        """Say that it always works."""
        return None


class Landlock:
    """Landlock and a socket filter: needs no namespace."""

    choice = SandboxChoice.LANDLOCK

    def confinement(self, *, network: bool) -> Confinement:  # noqa: ARG002 - the launcher tells it to landlock
        """Let the launcher confine itself."""
        return Confinement(landlock=True)

    def why_not(self) -> str | None:
        """Ask the kernel."""
        return landlock.why_not()


class Bubblewrap:
    """Namespaces of its own for everything, set up by ``bwrap``; the system must allow user namespaces."""

    choice = SandboxChoice.BUBBLEWRAP

    def __init__(self) -> None:
        import shutil  # noqa: PLC0415 - it loads archives and compression, which Landlock does without

        self._program = shutil.which("bwrap", path=PROGRAMS_PATH)

    def confinement(self, *, network: bool) -> Confinement:
        """Wrap the payload; it sees an empty tree but for what :mod:`cpm.landlock` lists."""
        extra = landlock.READABLE_WITH_NETWORK if network else ()
        options = [
            *("--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent"),
            *("--uid", _NOBODY, "--gid", _NOBODY, "--hostname", "workload"),
            *(("--share-net",) if network else ()),
            *(word for path in (*landlock.READABLE, *extra) for word in _shown(path)),
            *("--proc", "/proc", "--dev", "/dev", "--size", _TMPFS_BYTES, "--tmpfs", "/dev/shm"),  # noqa: S108 - its own
            *("--size", _TMPFS_BYTES, "--tmpfs", "/tmp"),  # noqa: S108 - as above
            *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"),
        ]
        return Confinement(wrapper=(self._program or "bwrap", *options, "--"))

    def why_not(self) -> str | None:
        """Run ``true`` in it."""
        if self._program is None:
            return f"there is no bwrap in {PROGRAMS_PATH}"
        command = [*self.confinement(network=False).wrapper, "true"]
        try:
            tried = subprocess.run(  # noqa: S603 - a fixed program with fixed options
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={"PATH": PROGRAMS_PATH},
                timeout=PROBE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"bwrap does not run: {type(error).__name__}"
        said = tried.stderr.decode(errors="replace").strip()
        return None if tried.returncode == 0 else f"bwrap fails: {said[:200]}"


def _shown(path: str) -> Iterator[str]:
    """Yield bubblewrap's words for a path as the system has it: a link as a link, anything else read-only."""
    if Path(path).is_symlink() and Path(path).parent == Path("/"):
        yield from ("--symlink", str(Path(path).readlink()), path)
    else:
        yield from ("--ro-bind-try", path, path)


def find_sandbox(choice: SandboxChoice) -> Sandbox:
    """Return the sandbox that was asked for, or with ``AUTO`` the strongest that works here.

    Raises:
        EdbError: ``sandbox_unavailable``; the one that was asked for does not work, or with ``AUTO`` none
            does. To run workloads unconfined, ``NONE`` must be asked for.
    """
    kinds: tuple[type[Bubblewrap | Landlock], ...] = (Bubblewrap, Landlock)
    if choice is SandboxChoice.NONE:
        return Unconfined()
    reasons = []
    for kind in kinds:
        if choice in (SandboxChoice.AUTO, kind.choice):
            adapter = kind()
            reason = adapter.why_not()
            if reason is None:
                return adapter
            reasons.append(f"{adapter.choice.value}: {reason}")
    raise EdbError(
        f"--sandbox {choice.value}: {'; '.join(reasons)}; only --sandbox none runs workloads unconfined",
        code="sandbox_unavailable",
    )
