"""What contract suites run real adapters against."""

import pytest
from simulators.live_cloud import LiveCloud


@pytest.fixture(scope="session")
def local_cloud_endpoints(tmp_path_factory):
    """A local cloud that all contract suites of a run share."""
    cloud = LiveCloud(tmp_path_factory.mktemp("local-cloud"))
    yield cloud
    cloud.close()


@pytest.fixture
def live_cloud(local_cloud_endpoints, monkeypatch):
    """The shared local cloud, trusted by whatever speaks through ``requests``."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", local_cloud_endpoints.ca_file)
    return local_cloud_endpoints
