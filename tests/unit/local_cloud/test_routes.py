import pytest

from local_cloud.functions_host.routing import Router, compile_route
from shared.errors import FormatError


def router(*routes):
    return Router(compile_route(name, template, methods, prefix="api") for name, template, methods in routes)


KEYS = router(
    ("Keys", "keys", ["GET"]),
    ("Key", "keys/{name}", ["GET"]),
    ("ById", "keys/{id:int}", ["GET"]),
    ("Fixed", "keys/default", ["GET"]),
    ("Provision", "ProvisionKey", ["POST"]),
    ("Named", "ProvisionKey/{key_name}", ["POST"]),
    ("Rest", "files/{*path}", []),
    ("Maybe", "maybe/{id:int?}", ["GET", "PUT"]),
)


@pytest.mark.parametrize(
    ("method", "path", "function", "parameters"),
    [
        ("GET", "/api/keys", "Keys", {}),
        ("GET", "/api/keys/", "Keys", {}),
        ("GET", "/API/Keys", "Keys", {}),
        ("GET", "/api/keys/one", "Key", {"name": "one"}),
        ("GET", "/api/keys/7", "ById", {"id": "7"}),
        ("GET", "/api/keys/default", "Fixed", {}),
        ("GET", "/api/keys/a%20b", "Key", {"name": "a b"}),
        ("GET", "/api/keys/a%2Fb", "Key", {"name": "a%2Fb"}),
        ("POST", "/api/ProvisionKey/my_app", "Named", {"key_name": "my_app"}),
        ("DELETE", "/api/files/a/b", "Rest", {"path": "a/b"}),
        ("DELETE", "/api/files", "Rest", {}),
        ("GET", "/api/maybe", "Maybe", {}),
        ("PUT", "/api/maybe/-5", "Maybe", {"id": "-5"}),
    ],
)
def test_the_most_specific_route_wins(method, path, function, parameters):
    match = KEYS.match(path, method)
    assert (match.function, match.parameters) == (function, parameters)


@pytest.mark.parametrize("path", ["/", "/api", "/keys", "/api/keys/a/b", "/api/maybe/x", "/apikeys"])
def test_a_path_that_no_route_knows_leads_nowhere(path):
    assert KEYS.match(path, "GET") is None


def test_a_path_known_under_other_methods_says_which():
    match = KEYS.match("/api/ProvisionKey", "GET")
    assert (match.function, match.allowed) == (None, {"POST"})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a/{x}", ["GET"]), ("A/{y}", ["GET", "POST"])),
        (("a", []), ("a/", ["GET"])),
        (("{*x}", []), ("{*y}", [])),
    ],
)
def test_two_routes_that_answer_the_same_are_refused(one, other):
    with pytest.raises(FormatError, match="one and two have the same route"):
        router(("one", *one), ("two", *other))


def test_one_path_may_have_a_function_for_each_method():
    routes = router(("read", "a", ["GET"]), ("write", "a", ["POST"]))
    assert [routes.match("/api/a", method).function for method in ("GET", "POST")] == ["read", "write"]


@pytest.mark.parametrize("template", ["a/{x:regex(.*)}", "a/{x:color}", "a/{x", "a/x}", "a b"])
def test_a_template_that_is_not_understood_is_refused(template):
    with pytest.raises(FormatError, match="function one: route"):
        compile_route("one", template, [], prefix="api")


def test_the_prefix_may_be_empty():
    assert Router([compile_route("one", "a", [], prefix="")]).match("/a", "GET").function == "one"
