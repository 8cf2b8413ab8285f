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
def make_app(cloud, tmp_path):
    """Return what makes an app under a changed policy."""
    return lambda **policy_changes: App(cloud, tmp_path, policy_changes=policy_changes)


@pytest.fixture
def audit(caplog):
    """Return the audit records written so far."""
    caplog.set_level("INFO", logger="audit")
    return lambda: [json.loads(record.getMessage()) for record in caplog.records if record.name == "audit"]
