"""Twins that no device and no back end of this project would write: each kind turns a twin into one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_DEEP = 5000


def _nested(depth: int, *, lists: bool = False) -> object:
    value: object = "deep"
    for _ in range(depth):
        value = [value] if lists else {"a": value}
    return value


ODD: dict[str, object] = {
    "a number": 7,
    "a huge number": 10**400,
    "a fraction": 1e308,
    "not a number": float("nan"),
    "nothing": None,
    "true": True,
    "a list": [1, [2], {"a": 3}],
    "no text": "",
    "a lone surrogate": "\ud800",
    "a surrogate in base64": "AAAA\udfff",
    "a null character": "a\0b",
    "not base64": "%%%%",
    "odd base64": "AAA",
    "base64 of nothing known": "AAAA",
    "long": "A" * 200_000,
    "an empty object": {},
    "parts with a gap": {"0": "AAAA", "2": "AAAA"},
    "parts of numbers": {"0": 1, "1": 2},
    "parts by the thousand": {str(number): "A" for number in range(3000)},
    "a name that is a surrogate": {"\ud83d": "AAAA", "v": 2},
    "an empty name": {"": ""},
    "deep objects": _nested(90),
    "deep lists": _nested(90, lists=True),
}
"""What any field may turn into."""

REPORTED = ("device_public_key", "device_cert", "confidential_package_status")
DESIRED = ("confidential_package_keys", "confidential_package_release")
_STATUS = {"v": 2, "algs": "HPKE-X25519", "pkf": "0" * 64, "seq": 0, "keys": {}, "packages": {}}


def _in_reported(name: str, value: object) -> Callable[[dict], dict]:
    def change(twin: dict) -> dict:
        twin["properties"]["reported"][name] = value
        return twin

    return change


def _in_desired(name: str, value: object) -> Callable[[dict], dict]:
    def change(twin: dict) -> dict:
        twin["properties"]["desired"][name] = value
        return twin

    return change


def _in_status(name: str, value: object) -> Callable[[dict], dict]:
    def change(twin: dict) -> dict:
        status = twin["properties"]["reported"].get("confidential_package_status")
        status = dict(status) if isinstance(status, dict) else dict(_STATUS)
        twin["properties"]["reported"]["confidential_package_status"] = {**status, name: value}
        return twin

    return change


def _in_tag(name: str, value: object) -> Callable[[dict], dict]:
    def change(twin: dict) -> dict:
        tag = twin["tags"].get("confidential_packages")
        twin["tags"]["confidential_packages"] = {**(tag if isinstance(tag, dict) else {}), name: value}
        return twin

    return change


def _in_tags(name: str, value: object) -> Callable[[dict], dict]:
    def change(twin: dict) -> dict:
        twin["tags"][name] = value
        return twin

    return change


def _in_metadata(value: object) -> Callable[[dict], dict]:
    def change(twin: dict) -> dict:
        for section in twin["properties"].values():
            section["$metadata"] = value
            section["$version"] = value
        return twin

    return change


def kinds() -> dict[str, Callable[[dict], dict]]:
    """Return every kind by name: each odd value in each place that is read."""
    found: dict[str, Callable[[dict], dict]] = {}
    for what, value in ODD.items():
        for name in REPORTED:
            found[f"reported {name}: {what}"] = _in_reported(name, value)
        for name in DESIRED:
            found[f"desired {name}: {what}"] = _in_desired(name, value)
        for name in ("v", "algs", "pkf", "seq", "keys", "packages", "failed"):
            found[f"status {name}: {what}"] = _in_status(name, value)
        for name in ("state", "reason", "retries", "basis", "at", "settled", "rebind"):
            found[f"tag {name}: {what}"] = _in_tag(name, value)
        for name in ("class", "confidential_packages"):
            found[f"tags {name}: {what}"] = _in_tags(name, value)
        found[f"metadata: {what}"] = _in_metadata(value)
        for name in ("context", "seen", "seq", "until"):
            note = {"context": "0" * 16, "seen": "0" * 16, "seq": 0, "until": 253402300799, name: value}
            found[f"note {name}: {what}"] = _in_tag("settled", note)
        for name in ("ver", "state", "kcv", "error", "seq"):
            key = {"ver": 1, "state": "error", "error": "unwrap_failed", "seq": 1, name: value}
            found[f"status key {name}: {what}"] = _in_status("keys", {"app": key})
    return found
