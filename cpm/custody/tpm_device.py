"""A TPM 2.0 as the custody uses it: one connection, a parent key, protected sessions, nothing left behind.

What a TPM can hold at once is three objects and three sessions, and without a resource manager nobody else
makes room. So everything that an operation loads goes again at its end, also after an error; between
operations only this process knows what there was. At most the parent, one object and one session are loaded.

Every session is salted with the parent key and encrypts the first parameter of command and response: somebody
who listens on the bus between processor and TPM sees neither a class key nor the storage root nor an
authorization value. That the parent is the right TPM's own is checked against the name in the state folder.

Esys contexts serve one thread at a time, and a TPM does one thing at a time: a lock makes operations wait.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cpm.custody.storage_root import damaged
from shared.errors import Conflict, EdbError, TransportError

try:
    from tpm2_pytss import ESAPI, TSS2_Exception
    from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_SE, TPMA_OBJECT, TPMA_SESSION
    from tpm2_pytss.types import TPM2B_PRIVATE, TPM2B_PUBLIC
except ImportError as error:
    raise EdbError(
        "custody in a TPM needs the package tpm2-pytss",
        code="not_installed",
        hint="pip install 'enclave-device-blueprint[tpm]'; it builds on libtss2-dev, pkg-config and gcc",
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.types import Secret

_OWN = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT
_PARENT = TPM2B_PUBLIC.parse(
    "ecc256:aes128cfb",  # the storage primary key of the TCG's provisioning guidance, on P-256
    objectAttributes=_OWN
    | TPMA_OBJECT.SENSITIVEDATAORIGIN
    | TPMA_OBJECT.USERWITHAUTH
    | TPMA_OBJECT.NODA
    | TPMA_OBJECT.RESTRICTED
    | TPMA_OBJECT.DECRYPT,
)
_LAYER_MASK, _MARSHALLING_LAYER = 0xFF0000, 0x090000  # which library an error comes from
_SESSION_FLAGS = TPMA_SESSION.CONTINUESESSION | TPMA_SESSION.DECRYPT | TPMA_SESSION.ENCRYPT


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmObject:
    """A key or sealed data outside its TPM; only that TPM, under the same parent, can load it.

    Args:
        public: Marshalled ``TPM2B_PUBLIC``.
        private: Marshalled ``TPM2B_PRIVATE``, encrypted by the parent.
    """

    public: bytes
    private: bytes


class TpmDevice:
    """A TPM; connected at the first use, and again after a connection was lost or the TPM was reset.

    Args:
        tcti: How it is reached, as tpm2-tss names it: ``device:/dev/tpmrm0``, ``swtpm:path=/run/tpm``.
    """

    def __init__(self, tcti: str) -> None:
        self._tcti = tcti
        self._lock = threading.RLock()
        self._esapi: Any = None
        self._parent_context: Any = None
        self._parent_name: bytes | None = None
        # The libraries write what goes wrong to standard error, where our log is; their errors say it, too.
        os.environ.setdefault("TSS2_LOG", "all+none")

    @contextlib.contextmanager
    def use(self, what: str) -> Iterator[TpmUse]:
        """Do one operation; what it loads is gone at its end.

        Args:
            what: The operation, for the message of an error.

        Raises:
            TransportError: ``custody_unavailable``; the TPM could not be reached, or refused what it never
                should. The next use connects again.
            Conflict: ``state_of_another``; it is not the TPM that it was.
        """
        with self._lock:
            try:
                parent = self._load_parent()
                with contextlib.ExitStack() as loaded:
                    yield TpmUse(self._esapi, parent, loaded)
            except TSS2_Exception as error:
                self.close()
                raise TransportError(
                    f"tpm {self._tcti}: {what}: {error}",
                    code="custody_unavailable",
                    hint="is the TPM there, may this user open it, and has its owner hierarchy no password",
                ) from error

    @property
    def parent_name(self) -> bytes:
        """The parent key's name: a digest of its public half, other for every TPM and after each clearing."""
        with self.use("reading the parent key"):
            if self._parent_name is None:
                raise AssertionError("a connected TPM has a parent key")
            return self._parent_name

    def expect_parent(self, name: bytes, *, where: str) -> None:
        """Insist on a parent key.

        Args:
            name: As :attr:`parent_name` was when the folder was made.
            where: What belongs to it, for the message.

        Raises:
            Conflict: ``state_of_another``.
            TransportError: As for :meth:`use`.
        """
        if self.parent_name != name:
            raise Conflict(
                f"{where} belongs to another TPM, or the TPM {self._tcti} was cleared since",
                code="state_of_another",
                hint="bring the TPM back, or start with an empty state folder and enrol the device again",
            )

    def close(self) -> None:
        """Disconnect; :meth:`use` connects again."""
        with self._lock:
            esapi, self._esapi, self._parent_context = self._esapi, None, None
            if esapi is not None:
                with contextlib.suppress(TSS2_Exception):
                    esapi.close()

    def _load_parent(self) -> Any:  # noqa: ANN401 - the binding has no types
        if self._esapi is not None:
            with contextlib.suppress(TSS2_Exception):
                return self._esapi.context_load(self._parent_context)
            self.close()  # the connection was lost, or the TPM was reset and knows the saved context no more
        self._connect()
        return self._esapi.context_load(self._parent_context)

    def _connect(self) -> None:
        self._esapi = ESAPI(self._tcti)
        handle, public, *_ = self._esapi.create_primary(None, _PARENT)
        try:
            self._parent_context = self._esapi.context_save(handle)
        finally:
            self._esapi.flush_context(handle)
        name = bytes(public.get_name())
        if self._parent_name not in {None, name}:
            self.close()
            raise Conflict(f"tpm {self._tcti}: it is not the TPM that it was", code="state_of_another")
        self._parent_name = name


class TpmUse:
    """One operation on a connected TPM.

    Args:
        esapi: The connection, for commands that load nothing.
        parent: The loaded parent key.
        loaded: Undoes what is loaded.
    """

    def __init__(self, esapi: Any, parent: Any, loaded: contextlib.ExitStack) -> None:  # noqa: ANN401 - no types
        self.esapi = esapi
        self._parent = self._keep(parent, loaded)
        self._loaded = loaded

    def session(self, *, policy: bool = False) -> Any:  # noqa: ANN401 - as above
        """Start a protected session: for authorization values, or for a policy."""
        kind = TPM2_SE.POLICY if policy else TPM2_SE.HMAC
        session = self.esapi.start_auth_session(
            self._parent, ESYS_TR.NONE, kind, "aes128cfb", TPM2_ALG.SHA256
        )
        self._keep(session, self._loaded)
        self.esapi.trsess_set_attributes(session, _SESSION_FLAGS)
        return session

    def create(self, sensitive: Any, public: Any, *, session: Any) -> TpmObject:  # noqa: ANN401 - as above
        """Make an object under the parent key; it is not loaded."""
        private, made, *_ = self.esapi.create(self._parent, sensitive, public, session1=session)
        return TpmObject(public=made.marshal(), private=private.marshal())

    def load(
        self,
        stored: TpmObject,
        *,
        where: str,
        session: Any = ESYS_TR.PASSWORD,  # noqa: ANN401 - as above
        auth: Secret | None = None,
    ) -> Any:  # noqa: ANN401 - as above
        """Load an object for this operation.

        Args:
            stored: The object.
            where: Where it was stored, for the message.
            session: What authorizes the use of the parent; that takes no secret.
            auth: What authorizes the use of the object.

        Raises:
            StorageError: ``state_damaged``; it is not what this TPM made.
        """
        try:
            public, public_size = TPM2B_PUBLIC.unmarshal(stored.public)
            private, private_size = TPM2B_PRIVATE.unmarshal(stored.private)
            handle = self.esapi.load(self._parent, private, public, session1=session)
        except TSS2_Exception as error:
            if error.fmt1 or _is_marshalling(error):
                raise damaged(f"{where}: not as the TPM made it") from error
            raise
        self._keep(handle, self._loaded)
        if (public_size, private_size) != (len(stored.public), len(stored.private)):
            raise damaged(f"{where}: not as the TPM made it")
        if auth is not None:
            self.esapi.tr_set_auth(handle, auth.reveal())
        return handle

    def _keep(self, handle: Any, loaded: contextlib.ExitStack) -> Any:  # noqa: ANN401 - as above
        loaded.callback(self._flush, handle)
        return handle

    def _flush(self, handle: Any) -> None:  # noqa: ANN401 - as above
        with contextlib.suppress(TSS2_Exception):  # a TPM that is gone has nothing loaded
            self.esapi.flush_context(handle)


def _is_marshalling(error: TSS2_Exception) -> bool:
    return int(error.rc) & _LAYER_MASK == _MARSHALLING_LAYER
