"""Requests made from the OpenAPI document, against the local cloud: no 5xx, nothing that is not described."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from simulators.running_cloud import RunningCloud

DOCUMENT = Path(__file__).parents[2] / "docs" / "spec" / "openapi.json"
EXAMPLES = 12  # of each operation, beside the systematic ones
SECONDS = 600
# No generated text is a certificate or a wrapped key; ProvisionKey takes GET only to refuse it.
LEFT_OUT = "positive_data_acceptance,allow_header_conformance"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    with RunningCloud(tmp_path_factory.mktemp("cloud") / "state") as cloud:
        yield cloud


@pytest.mark.timeout(SECONDS + 60)
def test_generated_requests_find_no_fault_of_the_server_and_nothing_undescribed(cloud, tmp_path):
    cloud.provision("my_confidential_app")
    command = [
        *(Path(sys.executable).with_name("st"), "run", DOCUMENT, "--url", f"{cloud.url}/api"),
        *("--tls-verify", cloud.ca_file, "-H", f"x-functions-key: {cloud.keys['admin']}"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES)),
        *("--generation-deterministic", "--no-shrink", "--continue-on-failure", "--no-color"),
        *("--checks", "all", "--exclude-checks", LEFT_OUT, "--request-timeout", "60"),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stdout[-20_000:]
    operations = sum(len(item) for item in json.loads(DOCUMENT.read_text())["paths"].values())
    assert re.search(rf"^ *Tested: {operations}$", done.stdout, re.MULTILINE), done.stdout
    cases = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert cases is not None, done.stdout
    assert int(cases[2]) > operations * EXAMPLES
