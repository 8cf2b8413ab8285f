import os
import socket
from contextlib import closing, contextmanager

import pytest

from local_cloud import addresses
from local_cloud.addresses import claim, claim_first_free
from shared.errors import Conflict, SettingsError, TransportError

OWN = f"127.78.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}"
"""An address that no cloud and no other run of these tests claims."""


@contextmanager
def listening(address, port=0):
    with closing(socket.create_server((address, port))) as server:
        yield server.getsockname()[1]


@pytest.fixture
def port():
    """A port that was free a moment ago."""
    with listening("127.0.0.1") as port:
        pass
    return port


def test_the_lowest_address_whose_port_is_free_is_chosen(port):
    with listening("127.0.0.1", port), listening("127.0.0.2", port):
        held = claim_first_free(port)
    taken = {f"127.0.0.{last}" for last in (1, 2)}
    assert held.address not in taken
    assert held.address.startswith("127.0.0.")
    held.release()


def test_two_clouds_never_claim_one_address(port):
    first = claim(OWN, [port])
    with pytest.raises(Conflict, match=f"another local cloud runs on {OWN}"):
        claim(OWN, [port])
    second = claim_first_free(port)
    assert second.address != first.address
    first.release()
    second.release()
    claim(OWN, [port]).release()


def test_a_taken_port_is_named(port):
    with (
        listening(OWN, port),
        pytest.raises(TransportError, match=f"port {port} on {OWN} is taken by another program$"),
    ):
        claim(OWN, [port])
    claim(OWN, [port]).release()  # and the claim was given back


def test_a_listener_on_every_address_is_told_to_be_in_the_way(port):
    with listening("0.0.0.0", port):
        with pytest.raises(TransportError, match="listens on it without naming one") as caught:
            claim_first_free(port)
        assert f"ss -ltnp 'sport = :{port}'" in caught.value.hint
        with pytest.raises(TransportError, match="it listens on every address"):
            claim(OWN, [port])


def test_a_cloud_that_is_just_ending_is_waited_for(port):
    ending = claim(OWN, [port])

    class ReleasedAfterTheFirstLook:
        """Ends the other cloud when the clock is looked at for the second time."""

        looks = 0

        def __call__(self):
            self.looks += 1
            if self.looks == 2:
                ending.release()
            return float(self.looks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(addresses.time, "monotonic", ReleasedAfterTheFirstLook())
        held = claim(OWN, [port], patience=10)
    held.release()
    assert held.address == OWN


@pytest.mark.parametrize("address", ["0.0.0.0", "192.168.1.1", "localhost", "::1", ""])
def test_nothing_but_loopback_is_ever_bound(address, port):
    with pytest.raises(SettingsError, match="loopback"):
        claim(address, [port])
