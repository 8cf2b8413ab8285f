"""The function app's settings: read once from the environment, all their problems told together."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from functions.call_rates import Allowance
from functions.policy_source import MAX_AGE_SECONDS, REFRESH_SECONDS
from shared.certificate_paths import TrustStore
from shared.errors import EdbError, SettingsError
from shared.policy.document import load_policy
from shared.revocation import MAX_CRL_BYTES, load_revocation_lists
from shared.twin.capacity import SHARE_PERCENT, HubTier
from shared.types import Audience, parse_audience

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "EDB_"
_EVENTS_CONNECTION = "EDB_TWIN_EVENTS"
_KNOWN = frozenset(
    {
        "EDB_AUDIENCE",
        "EDB_KEY_VAULT_URL",
        "EDB_KEY_HSM_URL",
        "EDB_CLASS_KEY_DAYS",
        "EDB_CRL_FILE",
        "EDB_KEK_NAME",
        "EDB_RELEASE_KEY_NAME",
        "EDB_IOT_HUB_HOSTNAME",
        "EDB_IOT_HUB_TIER",
        "EDB_IOT_HUB_UNITS",
        "EDB_IOT_HUB_SHARE_PERCENT",
        "EDB_KEY_VAULT_SHARE_PERCENT",
        "EDB_MAX_INSTANCES",
        "EDB_POLICY_FILE",
        "EDB_POLICY_BLOB_URL",
        "EDB_POLICY_REFRESH_SECONDS",
        "EDB_POLICY_MAX_AGE_SECONDS",
        "EDB_AUDIT_FOLDER",
        "EDB_AUDIT_CONTAINER_URL",
        "EDB_TRUSTED_ROOTS_FILE",
        "EDB_KEY_VAULT_VERIFY_CHALLENGE",
        "EDB_DISTRIBUTE_SCHEDULE",
        "EDB_TWIN_EVENTS_HUB",
        _EVENTS_CONNECTION,
    }
)
_VAULT_NAME = re.compile(r"[0-9A-Za-z-]{1,127}")
_HOST = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z.-]*[0-9A-Za-z])?(?::[0-9]{1,5})?")
_SECONDS = re.compile(r"[1-9][0-9]{0,7}")
_MAX_FILE_BYTES = 1024 * 1024
_MAX_DAYS = 36500
_MAX_UNITS = 200
_MAX_INSTANCES = 2000
_MAX_WORKER_PROCESSES = 10
_Raw = TypeVar("_Raw", str, bytes)
_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the function app is told from outside.

    Args:
        audience: The deployment's id.
        key_vault_url: ``https://…``; holds the class keys, and both keys unless ``key_hsm_url`` does.
        key_hsm_url: ``https://…`` of the Managed HSM that holds both keys; None if the vault does.
        kek_name: Name of the key that class keys rest under.
        release_key_name: Name of the key that signs releases.
        iot_hub_hostname: May hold a port.
        allowance: How much of the hub's and the vault's limits one instance takes.
        policy_file: Where the release policy rests, if in a file.
        policy_blob_url: Where it rests, if in a blob; exactly one of the two is set.
        policy_refresh_seconds: How often it is looked at.
        policy_max_age_seconds: How long it stays in force while nobody confirms it.
        audit_folder: Where the audit chain rests, if in files.
        audit_container_url: Where it rests, if in append blobs; exactly one of the two is set.
        trust: Roots that client and device certificates must lead to, and revocation lists.
        crl_file: Where the revocation lists are read again; None if there are none.
        class_key_lifetime: How long a new version of a class key is valid; None for ever.
        verify_challenge: Whether the vault must prove to be in the domain that it asks a token for.
        managed_identity_client_id: Of a user-assigned identity; None for the system's.
        entra_in_front: Whether the platform authenticates callers with Entra ID before they reach the app;
            only then do its headers mean anything.
    """

    audience: Audience
    key_vault_url: str
    key_hsm_url: str | None
    kek_name: str
    release_key_name: str
    iot_hub_hostname: str
    allowance: Allowance
    policy_file: Path | None
    policy_blob_url: str | None
    policy_refresh_seconds: int
    policy_max_age_seconds: int
    audit_folder: Path | None
    audit_container_url: str | None
    trust: TrustStore
    crl_file: Path | None
    class_key_lifetime: timedelta | None
    verify_challenge: bool
    managed_identity_client_id: str | None
    entra_in_front: bool

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read the settings and the files that they name.

        Raises:
            SettingsError: With every problem: what is missing, malformed, unreadable or unknown.
        """
        reader = _Reader(environment)
        reader.refuse_unknown()
        audience = reader.text("EDB_AUDIENCE")
        vault_url = reader.url("EDB_KEY_VAULT_URL", reader.text("EDB_KEY_VAULT_URL"))
        hsm_url = reader.url("EDB_KEY_HSM_URL", reader.optional("EDB_KEY_HSM_URL"))
        hub = reader.text("EDB_IOT_HUB_HOSTNAME")
        kek = reader.vault_name("EDB_KEK_NAME", "class-key-kek")
        release_key = reader.vault_name("EDB_RELEASE_KEY_NAME", "release-signing")
        allowance = reader.allowance()
        verify = reader.boolean("EDB_KEY_VAULT_VERIFY_CHALLENGE", default=True)
        policy_file, policy_blob = reader.one_of("EDB_POLICY_FILE", "EDB_POLICY_BLOB_URL")
        refresh = reader.seconds("EDB_POLICY_REFRESH_SECONDS", REFRESH_SECONDS)
        max_age = reader.seconds("EDB_POLICY_MAX_AGE_SECONDS", MAX_AGE_SECONDS)
        audit_folder, audit_container = reader.one_of("EDB_AUDIT_FOLDER", "EDB_AUDIT_CONTAINER_URL")
        roots = reader.file("EDB_TRUSTED_ROOTS_FILE")
        crl_file = reader.optional("EDB_CRL_FILE")
        crls = reader.file("EDB_CRL_FILE", limit=MAX_CRL_BYTES) if crl_file else None
        lifetime = reader.days("EDB_CLASS_KEY_DAYS")
        # The Functions host resolves these two, and says nothing clear when they are missing.
        reader.text("EDB_DISTRIBUTE_SCHEDULE")
        reader.text("EDB_TWIN_EVENTS_HUB")
        if hub and not _HOST.fullmatch(hub):
            reader.problem("EDB_IOT_HUB_HOSTNAME", f"expected HOST or HOST:PORT, found {hub!r}")
        parsed_audience = reader.parsed(audience, lambda text: parse_audience(text, where="EDB_AUDIENCE"))
        if policy_file:  # one that is deployed with the app has to be good at its start
            reader.parsed(
                reader.file("EDB_POLICY_FILE"), lambda data: load_policy(data, where="EDB_POLICY_FILE")
            )
        trust = reader.parsed(roots, lambda data: TrustStore.from_pem(data, where="EDB_TRUSTED_ROOTS_FILE"))
        lists = reader.parsed(crls, lambda data: load_revocation_lists(data, where="EDB_CRL_FILE"))
        if reader.problems or parsed_audience is None or trust is None:
            raise SettingsError(reader.problems)
        return cls(
            audience=parsed_audience,
            key_vault_url=vault_url,
            key_hsm_url=hsm_url or None,
            kek_name=kek,
            release_key_name=release_key,
            iot_hub_hostname=hub,
            allowance=allowance,
            policy_file=Path(policy_file) if policy_file else None,
            policy_blob_url=policy_blob or None,
            policy_refresh_seconds=refresh,
            policy_max_age_seconds=max_age,
            audit_folder=Path(audit_folder) if audit_folder else None,
            audit_container_url=audit_container or None,
            trust=replace(trust, revocations=lists or ()),
            crl_file=Path(crl_file) if crl_file else None,
            class_key_lifetime=lifetime,
            verify_challenge=verify,
            managed_identity_client_id=environment.get("AZURE_CLIENT_ID") or None,
            entra_in_front=environment.get("WEBSITE_AUTH_ENABLED", "").lower() == "true",
        )


class _Reader:
    """Reads single settings and keeps the problems."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[str] = []

    def problem(self, name: str, what: str) -> None:
        self.problems.append(f"{name}: {what}")

    def refuse_unknown(self) -> None:
        for name in sorted(self._environment):
            connection = name.startswith(f"{_EVENTS_CONNECTION}__")  # identity-based connection's parts
            if name.startswith(PREFIX) and name not in _KNOWN and not connection:
                self.problem(name, "unknown setting")

    def text(self, name: str, default: str = "") -> str:
        value = self._environment.get(name, "").strip() or default
        if not value:
            self.problem(name, "missing")
        return value

    def optional(self, name: str) -> str:
        return self._environment.get(name, "").strip()

    def url(self, name: str, value: str) -> str:
        url = urlsplit(value)
        if value and (url.scheme != "https" or not url.netloc or url.path not in {"", "/"}):
            self.problem(name, f"expected https://HOST, found {value!r}")
        return value.rstrip("/")

    def days(self, name: str) -> timedelta | None:
        value = self.optional(name)
        if not value:
            return None
        if not (value.isascii() and value.isdigit() and 1 <= int(value[:6]) <= _MAX_DAYS):
            self.problem(name, f"expected 1 to {_MAX_DAYS} days, found {value!r}")
            return None
        return timedelta(days=int(value))

    def one_of(self, path: str, url: str) -> tuple[str, str]:
        """Return a path or a URL: exactly one of the two has to be set."""
        found = tuple(self._environment.get(name, "").strip() for name in (path, url))
        if all(found) or not any(found):
            self.problem(path, f"expected either this or {url}, found {'both' if all(found) else 'neither'}")
        split = urlsplit(found[1])
        if found[1] and (
            split.scheme != "https" or not split.netloc or not split.path.strip("/") or split.query
        ):
            # A query would be a shared access signature, which is a key.
            self.problem(url, "expected https://HOST/PATH without a query")
        return found[0], found[1]

    def seconds(self, name: str, default: int) -> int:
        value = self.text(name, str(default))
        if not _SECONDS.fullmatch(value):
            self.problem(name, f"expected whole seconds from 1, found {value!r}")
            return default
        return int(value)

    def number(self, name: str, default: int, *, most: int) -> int:
        value = self.text(name, str(default))
        if not (value.isascii() and value.isdigit() and 1 <= int(value[:6]) <= most):
            self.problem(name, f"expected a whole number of 1 to {most}, found {value!r}")
            return default
        return int(value)

    def allowance(self) -> Allowance:
        tier, vault = self.optional("EDB_IOT_HUB_TIER"), self.optional("EDB_KEY_VAULT_SHARE_PERCENT")
        tiers = [each.value for each in HubTier]
        if tier and tier not in tiers:
            self.problem("EDB_IOT_HUB_TIER", f"expected one of {', '.join(tiers)}, found {tier!r}")
        for name in ("EDB_IOT_HUB_UNITS", "EDB_IOT_HUB_SHARE_PERCENT"):
            if self.optional(name) and not tier:
                self.problem(name, "says nothing without EDB_IOT_HUB_TIER")
        if (tier or vault) and not self.optional("EDB_MAX_INSTANCES"):
            self.problem("EDB_MAX_INSTANCES", "missing; each instance takes its part of the rates")
        instances = self.number("EDB_MAX_INSTANCES", 1, most=_MAX_INSTANCES)
        # Each process of the platform's worker has rates of its own.
        processes = self.number("FUNCTIONS_WORKER_PROCESS_COUNT", 1, most=_MAX_WORKER_PROCESSES)
        return Allowance(
            hub_tier=HubTier(tier) if tier in tiers else None,
            hub_units=self.number("EDB_IOT_HUB_UNITS", 1, most=1 if tier == "F1" else _MAX_UNITS),
            hub_share_percent=self.number("EDB_IOT_HUB_SHARE_PERCENT", SHARE_PERCENT, most=100),
            vault_share_percent=(
                self.number("EDB_KEY_VAULT_SHARE_PERCENT", SHARE_PERCENT, most=100) if vault else None
            ),
            instances=instances * processes,
        )

    def vault_name(self, name: str, default: str) -> str:
        value = self.text(name, default)
        if not _VAULT_NAME.fullmatch(value):
            self.problem(name, f"expected 1 to 127 characters 0-9 A-Z a-z -, found {value!r}")
        return value

    def boolean(self, name: str, *, default: bool) -> bool:
        value = self.text(name, "true" if default else "false").lower()
        if value not in {"true", "false"}:
            self.problem(name, f"expected true or false, found {value!r}")
        return value == "true"

    def file(self, name: str, *, limit: int = _MAX_FILE_BYTES) -> bytes | None:
        path = self.text(name)
        if not path:
            return None
        try:
            with Path(path).open("rb") as stream:
                return stream.read(limit + 1)
        except OSError as error:
            self.problem(name, f"cannot read {path!r}: {error.strerror}")
            return None

    def parsed(self, value: _Raw | None, parse: Callable[[_Raw], _Parsed]) -> _Parsed | None:
        """Return what was read, parsed; what is missing was told already."""
        if value is None or value == "":
            return None
        try:
            return parse(value)
        except EdbError as error:
            self.problems.append(str(error))
            return None
