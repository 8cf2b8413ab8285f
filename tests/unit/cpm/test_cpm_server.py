"""The server in this process: what a defect tells its client and the log."""

import json
import logging
import socket
import threading

import pytest

from cpm.listener import listen, peer_uid, unlisten
from cpm.server import Server
from shared.errors import EdbError
from shared.wire.cpm_channel import connect


@pytest.fixture
def path(device, tmp_path):
    path = tmp_path / "run" / "cpm.sock"
    listener = listen(path)
    server = Server(listener=listener, service=device.service, allowed_uids=_everybody())
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield path
    server.stop()
    thread.join()
    server.close()
    unlisten(listener, path)


def _everybody():
    left, right = socket.socketpair()
    with left, right:
        return {peer_uid(left)}


def test_defect_is_one_plain_error_and_the_server_goes_on(path, monkeypatch, caplog):
    def defect(*_args, **_kwargs):
        raise RuntimeError("planted secret")

    caplog.set_level(logging.INFO, logger="cpm")
    with connect(str(path), timeout=30) as cpm:
        with monkeypatch.context() as fault:
            fault.setattr("cpm.keyring.drop_expired", defect)
            with pytest.raises(EdbError) as failed:
                cpm.call("status")

        assert (failed.value.code, str(failed.value)) == ("internal", "the cpm failed; its log says where")
        assert cpm.call("status")["sequence"] == 0
    told = json.dumps([record.__dict__ for record in caplog.records], default=str)
    assert "planted secret" not in told
    assert "RuntimeError" in told
    assert "test_cpm_server.py" in told


def test_folder_of_the_socket_is_made_for_owner_and_group(path):
    assert path.parent.stat().st_mode & 0o777 == 0o750
    assert path.stat().st_mode & 0o777 == 0o660
