"""The edb command as a process, against an API that keeps to the contracts."""

import pytest
from simulators.edb_process import edb
from simulators.key_service_api import FUNCTION_KEY, KeyServiceApi


@pytest.fixture
def api(tmp_path):
    service = KeyServiceApi(tmp_path)
    yield service
    service.close()


@pytest.fixture
def call(api):
    environment = {"EDB_URL": api.url, "EDB_CA_FILE": str(api.ca_file), "EDB_FUNCTION_KEY": FUNCTION_KEY}

    def run(*arguments, **more):
        done = edb(*arguments, env=environment | more.pop("env", {}), **more)
        assert FUNCTION_KEY not in done.stdout + done.stderr
        return done

    run.environment = environment
    return run
