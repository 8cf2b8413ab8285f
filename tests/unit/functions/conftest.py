import json

import pytest
from simulators.app import App
from simulators.cloud import Cloud


@pytest.fixture
def cloud():
    return Cloud()


@pytest.fixture
def app(cloud, tmp_path):
    return App(cloud, tmp_path)


@pytest.fixture
def audit(caplog):
    """Return the audit records written so far."""
    caplog.set_level("INFO", logger="audit")
    return lambda: [json.loads(record.getMessage()) for record in caplog.records if record.name == "audit"]
