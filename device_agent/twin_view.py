"""What the agent knows of its twin: both sections, and whether they may be relied on.

Desired patches are partial and numbered. They are merged as long as they come without a gap; any doubt (a
gap, an older number, a patch that cannot be read) calls for the whole twin. Desired keys stay of use until
then, since the CPM judges them by itself; what the twin holds as reported does not.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from device_agent.twin_bounds import is_within_bounds
from device_agent.twin_link import Section, Twin, parse_section
from shared.errors import FormatError
from shared.twin.sections import apply_patch

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = logging.getLogger("device_agent")


class TwinView:
    """The agent's picture of its twin.

    Attributes:
        desired: The desired section; empty before the first twin.
        reported: The reported properties; None while the twin is in doubt.
        desired_open: Whether the desired keys have not been dealt with.
    """

    def __init__(self) -> None:
        self.desired: Mapping[str, object] = {}
        self.reported: Mapping[str, object] | None = None
        self.desired_open = False
        self._version: int | None = None

    def take(self, twin: Twin) -> None:
        """Replace the picture by a twin that was read whole."""
        if self._version is None or twin.desired.properties != self.desired:
            self.desired_open = True
        self.desired, self._version = twin.desired.properties, twin.desired.version
        self.reported = twin.reported.properties

    def doubt(self) -> None:
        """Rely on the picture no longer."""
        self.reported = None

    def patch_desired(self, document: object) -> None:
        """Merge a patch that the hub pushed; a repeated one changes nothing, a gap leaves doubt."""
        if self.reported is None or self._version is None:
            return  # the whole twin will be read, and it comes with this
        try:
            patch = parse_section(document, where="desired patch")
        except FormatError as error:
            _log.warning("patch_malformed", extra={"reason": str(error)})
            self.doubt()
            return
        if patch.version == self._version + 1:
            self._merge(patch)
        elif patch.version != self._version:
            self.doubt()

    def _merge(self, patch: Section) -> None:
        desired = apply_patch(self.desired, patch.properties)
        if not is_within_bounds(desired):
            _log.warning("patch_malformed", extra={"reason": "the desired section would be too large"})
            self.doubt()
            return
        if desired != self.desired:
            self.desired_open = True
        self.desired, self._version = desired, patch.version

    def acknowledged(self, patch: Mapping[str, object]) -> None:
        """Note that the hub took a reported patch."""
        if self.reported is not None:
            self.reported = apply_patch(self.reported, patch)
