"""The demonstration waits for a cloud that is starting again."""

import threading

import pytest

from local_cloud.demo.cloud import Cloud
from shared.errors import FormatError


def test_a_description_that_is_away_while_its_cloud_starts_again_is_waited_for(tmp_path):
    beside, path = tmp_path / "beside", tmp_path / "cloud.json"
    beside.write_text('{"audience": "local"}')
    threading.Timer(0.1, beside.rename, [path]).start()
    assert Cloud(tmp_path).audience == "local"


def test_a_description_that_is_none_is_an_error_at_once(tmp_path):
    (tmp_path / "cloud.json").write_text("[]")
    with pytest.raises(FormatError, match=r"cloud.json: expected a JSON object, found list"):
        _ = Cloud(tmp_path).description
