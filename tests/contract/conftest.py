"""What contract suites run real adapters against."""

import secrets

import pytest
from azure.storage.blob import ContainerClient
from simulators import azurite
from simulators.blob_service import BlobService
from simulators.live_cloud import LiveCloud

from functions.adapters.blob_calls import BLOB_CLIENT


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


@pytest.fixture(scope="session")
def simulated_account(tmp_path_factory):
    """A storage account of our own."""
    with BlobService(tmp_path_factory.mktemp("blobs")) as service:
        yield service


@pytest.fixture(scope="session")
def azurite_account(tmp_path_factory):
    """The vendor's emulator of a storage account, where it is installed."""
    if azurite.PROGRAM is None:
        pytest.skip("azurite is not installed")
    with azurite.Azurite(tmp_path_factory.mktemp("azurite")) as service:
        yield service


@pytest.fixture
def make_container(request, monkeypatch):
    """Make a container in one of the two accounts; gives its URL and a credential."""

    def make(account):
        service = request.getfixturevalue(f"{account}_account")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(service.ca_file))
        url = f"{service.url}/c{secrets.token_hex(6)}"
        with ContainerClient.from_container_url(url, service.credential, **BLOB_CLIENT) as client:
            client.create_container()
        return url, service.credential

    return make
