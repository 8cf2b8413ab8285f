"""The function app under the platform's own worker library: indexed, loaded and invoked as in Azure.

The library is published for Python 3.13 and later, on which the app is deployed. `make test` under such a
Python runs this; under an older one it is left out, and says so.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulators.app import environment
from simulators.cloud import Cloud

ROOT = Path(__file__).parents[2]

if sys.version_info < (3, 13):
    pytest.skip("the platform's worker library needs Python 3.13 or later", allow_module_level=True)


def test_the_worker_indexes_loads_and_invokes_the_app(tmp_path):
    driver = [sys.executable, "-m", "simulators.worker_driver", str(ROOT)]
    settings = environment(Cloud(), tmp_path)
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])

    done = subprocess.run(
        driver,
        env={**os.environ, **settings, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    described = json.loads((ROOT / "docs" / "spec" / "openapi.json").read_text())["paths"]
    assert {"Health", "ProvisionKey", "WrapKey", "DistributeKeyTimer", "DistributeKeyPage"} <= set(
        told["loaded"]
    )
    assert len(told["routes"]) >= len(described)
    assert told["health"][0] == 200
    assert json.loads(told["health"][1])["status"] == "ok"
    assert told["get_provision"][0] == 405
    assert json.loads(told["get_provision"][1])["code"] == "method_not_allowed"
