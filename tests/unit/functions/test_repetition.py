"""Idempotency-Key: the same request, sent twice, does its work once."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor

import pytest
from simulators.app import App
from simulators.cloud import APP
from simulators.vault import OAEP

from shared.errors import Conflict, TransportError

KEY = {"Idempotency-Key": "0b9f6f5e-2f52-4a6e-a7b1-2d2c0a7b5f10"}
OTHER = {"Idempotency-Key": "another"}


def post(app, name, headers=KEY, route=None, **body):
    return app.request(name, body, headers=headers, route=route)


def test_provisioning_again_answers_the_same_and_makes_nothing(app, audit):
    first, second = (post(app, "ProvisionKey", key_name=APP) for _ in range(2))
    assert (first.status, second.status) == (201, 201)
    assert first.document == second.document
    assert list(app.cloud.store.envelopes[APP]) == [1]
    assert [record["reason"] for record in audit()] == [None, "repeated"]


def test_another_instance_after_a_restart_knows_as_well(cloud, app, tmp_path):
    post(app, "ProvisionKey", key_name=APP)
    assert post(App(cloud, tmp_path), "ProvisionKey", key_name=APP).status == 201


def test_spelling_and_route_do_not_make_another_request(app):
    post(app, "ProvisionKey", key_name=APP, strength=256, algorithm="aes-gcm", more="ignored")
    assert post(app, "ProvisionKey", key_name=APP, strength="256").status == 201
    assert post(app, "ProvisionKeyNamed", route={"key_name": APP}).status == 201


@pytest.mark.parametrize("headers", [{}, OTHER])
def test_without_the_key_or_with_another_it_is_another_request(app, headers):
    post(app, "ProvisionKey", key_name=APP)
    reply = post(app, "ProvisionKey", headers, key_name=APP)
    assert (reply.status, reply.document["code"]) == (409, "key_exists")


def test_the_same_key_with_another_request_is_refused_and_changes_nothing(app):
    post(app, "ProvisionKey", key_name=APP)
    for name, body in (("ProvisionKey", {"strength": 128}), ("RotateKey", {})):
        reply = post(app, name, key_name=APP, **body)
        assert (reply.status, reply.document["code"]) == (422, "idempotency_key_reused")
    assert list(app.cloud.store.envelopes[APP]) == [1]


def test_a_retried_rotation_answers_the_version_that_it_made_whatever_came_after(app):
    post(app, "ProvisionKey", {}, key_name=APP)
    assert post(app, "RotateKey", key_name=APP).document["version"] == 2
    assert post(app, "RotateKey", {}, key_name=APP).document["version"] == 3
    assert post(app, "RotateKey", key_name=APP).document == {"key_name": APP, "version": 2}
    assert app.cloud.store.state(APP).latest == 3


def test_rotations_with_different_keys_are_different_rotations(app):
    post(app, "ProvisionKey", {}, key_name=APP)
    versions = [post(app, "RotateKey", each, key_name=APP).document["version"] for each in (KEY, OTHER)]
    assert versions == [2, 3]


def test_an_import_is_remembered_by_its_wrapped_key(app):
    wrapped = [
        base64.b64encode(app.cloud.kek.current().public_key.encrypt(bytes(16), OAEP)).decode()
        for _ in range(2)
    ]
    first = post(app, "ImportKey", key_name=APP, wrapped_key=wrapped[0])
    again = post(app, "ImportKey", key_name=APP, wrapped_key=wrapped[0])
    assert (first.status, again.status, first.document) == (201, 201, again.document)
    assert again.document["strength"] == "128"
    assert post(app, "ImportKey", key_name=APP, wrapped_key=wrapped[1]).status == 422


def test_a_request_that_failed_is_not_remembered(app, monkeypatch):
    def fail(*_arguments, **_options):
        raise TransportError("the vault is away")

    with monkeypatch.context() as away:
        away.setattr(app.cloud.store, "create", fail)
        assert post(app, "ProvisionKey", key_name=APP).status == 503
    assert post(app, "ProvisionKey", key_name=APP).status == 201


def test_an_answer_that_was_lost_after_the_vault_had_it_is_found_again(app, monkeypatch):
    create = app.cloud.store.create

    def lost(*arguments, **options):
        create(*arguments, **options)
        raise TransportError("the connection broke")

    with monkeypatch.context() as broken:
        broken.setattr(app.cloud.store, "create", lost)
        assert post(app, "ProvisionKey", key_name=APP).status == 503
    reply = post(app, "ProvisionKey", key_name=APP)
    assert (reply.status, reply.document["version"]) == (201, 1)
    assert len(app.queues["distribute-passes"]) == 1


def test_the_same_rotation_at_once_makes_one_version(app, monkeypatch):
    """Both look before either writes; the one that comes too late finds what the other made."""
    post(app, "ProvisionKey", {}, key_name=APP)
    add_version = app.cloud.store.add_version

    def overtaken(*arguments, **options):
        monkeypatch.setattr(app.cloud.store, "add_version", add_version)
        add_version(*arguments, **options)
        raise Conflict("somebody else made it", code="version_exists")

    monkeypatch.setattr(app.cloud.store, "add_version", overtaken)
    assert post(app, "RotateKey", key_name=APP).document["version"] == 2
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: post(app, "RotateKey", key_name=APP), range(8)))
    assert {reply.document["version"] for reply in replies} == {2}
    assert app.cloud.store.state(APP).latest == 2


@pytest.mark.parametrize("key", ["", " ", "a b", "ä", "x" * 129, "a\n"])
def test_a_key_that_is_none_is_refused(app, key):
    reply = post(app, "ProvisionKey", {"Idempotency-Key": key}, key_name=APP)
    assert (reply.status, reply.document["code"]) == (400, "idempotency_key_invalid")
    assert app.cloud.store.envelopes == {}
