"""Fetching a certificate that a package names: only from where the user said, only from the public net."""

import http.server
import socket
import ssl
import threading

import pytest
from simulators.workshop import CLASS_KEY, make_workshop, write_pair

from cpk_tool.certificate_fetch import CertificateFetcher, SystemNetwork, is_public
from cpk_tool.parsers import parse
from cpk_tool.verification_options import verification_from
from local_cloud.certificates import create_authority, issue_server
from shared.certificates import MAX_CHAIN_BYTES
from shared.cpk.opening import open_package
from shared.errors import FormatError, PolicyDenied, TransportError
from shared.types import Secret

HOST = "certs.example.test"
PUBLIC = "93.184.216.34"


class LoopbackNetwork:
    """Says that a name has public addresses, and leads connections to a server on loopback."""

    def __init__(self, port=0, addresses=(PUBLIC,)):
        self.addresses = list(addresses)
        self.connected = []
        self._port = port

    def resolve(self, host, port):
        self.connected.append(("resolve", host, port))
        return self.addresses

    def connect(self, address, port, *, seconds):
        self.connected.append(("connect", address, port))
        return socket.create_connection(("127.0.0.1", self._port), timeout=seconds)


class Server:
    """An HTTPS server whose answer can be bent."""

    def __init__(self, folder):
        root = create_authority("Test Root", days=2)
        chain, key = issue_server(root, [HOST])
        for name, data in (("ca.pem", root.certificate_pem), ("chain.pem", chain), ("server.key", key)):
            (folder / name).write_bytes(data)
        self.ca_file = folder / "ca.pem"
        self.answer = (200, {}, b"certificate")
        self.requests = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                status, headers, body = server.answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for piece in body if isinstance(body, list) else [body]:
                    try:
                        self.wfile.write(piece() if callable(piece) else piece)
                    except OSError:
                        return

            def log_message(self, *_):
                pass

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(folder / "chain.pem", folder / "server.key")
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def running_server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("tls"))
    yield server
    server.close()


@pytest.fixture
def server(running_server):
    running_server.answer = (200, {}, b"certificate")
    running_server.requests.clear()
    return running_server


def fetcher(server, network=None, **options):
    options = {"hosts": {HOST}, "ca_file": server.ca_file} | options
    return CertificateFetcher(network=network or LoopbackNetwork(server.port), **options)


def test_a_certificate_is_fetched_from_the_address_that_was_looked_at(server):
    network = LoopbackNetwork(server.port, (PUBLIC, "2606:4700::1111"))

    assert fetcher(server, network).fetch(f"https://{HOST}:8443/a/b.pem?x=1") == b"certificate"

    assert network.connected == [("resolve", HOST, 8443), ("connect", PUBLIC, 8443)]
    path, headers = server.requests[0]
    assert path == "/a/b.pem?x=1"
    assert headers["host"] == f"{HOST}:8443"
    assert "authorization" not in headers


@pytest.mark.parametrize(
    "url",
    [
        "http://certs.example.test/",
        "ftp://certs.example.test/",
        "https://user@certs.example.test/",
        "https://other.example.test/",
        "https://certs.example.test.evil.test/",
        "https://certs.example.test#@other.test/",
        "https://93.184.216.34/",
        "https://[::1]/",
        "https://localhost/",
        "https://2130706433/",
        "https:///x",
        "https://certs.example.test:99999/",
        "https://certs.example.test/a b",
        "https://certs.example.test/\r\nx: y",
        "https://certs.example.test/\u00e9",
        f"https://certs.example.test/{'x' * 3000}",
    ],
)
def test_what_is_not_allowed_is_not_even_looked_up(server, url):
    network = LoopbackNetwork(server.port)

    with pytest.raises(PolicyDenied) as caught:
        fetcher(server, network).fetch(url)

    assert caught.value.code == "fetch_refused"
    assert network.connected == []


def test_a_host_that_is_not_allowed_is_told_with_how_to_allow_it(server):
    with pytest.raises(PolicyDenied, match=r"other\.example\.test is not an allowed host") as caught:
        fetcher(server).fetch("https://other.example.test/x")
    assert caught.value.hint == "--fetch-certificate other.example.test allows it, if you know it"


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "fd00::1"])
def test_a_host_with_one_private_address_is_refused(server, address):
    network = LoopbackNetwork(server.port, (PUBLIC, address))

    with pytest.raises(PolicyDenied, match="expected public addresses only"):
        fetcher(server, network).fetch(f"https://{HOST}/")
    assert [step[0] for step in network.connected] == ["resolve"]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        (PUBLIC, True),
        ("2606:4700::1111", True),
        ("0.0.0.0", False),
        ("100.64.0.1", False),
        ("172.16.5.4", False),
        ("192.168.1.1", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.216.34", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
        ("2001:0:a00:1::", False),
        ("2001:db8::1", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("ff02::1", False),
        ("name.test", False),
    ],
)
def test_only_addresses_of_the_public_internet_are_public(address, public):
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((302, {"location": "https://certs.example.test/x"}, b""), "expected status 200, found 302"),
        ((404, {}, b""), "expected status 200, found 404"),
    ],
)
def test_a_redirect_or_an_error_is_not_followed(server, answer, message):
    server.answer = answer

    with pytest.raises(TransportError, match=message):
        fetcher(server).fetch(f"https://{HOST}/")
    assert len(server.requests) == 1


def test_a_long_answer_is_not_read_to_its_end(server):
    server.answer = (200, {}, [b"x" * MAX_CHAIN_BYTES, b"x"])

    with pytest.raises(FormatError, match=f"expected at most {MAX_CHAIN_BYTES} bytes, found more"):
        fetcher(server).fetch(f"https://{HOST}/")


def test_an_answer_of_just_the_right_length_is_taken(server):
    server.answer = (200, {}, b"x" * MAX_CHAIN_BYTES)

    assert len(fetcher(server).fetch(f"https://{HOST}/")) == MAX_CHAIN_BYTES


@pytest.mark.parametrize("headers", [{}, {"content-length": "100"}])
def test_a_peer_that_never_ends_is_ended(server, headers):
    fetched = threading.Event()

    def nothing():
        fetched.wait(60)
        return b""

    server.answer = (200, headers, [b"x", nothing])

    with pytest.raises(TransportError, match="cannot be fetched"):
        fetcher(server, seconds=0.2).fetch(f"https://{HOST}/")
    fetched.set()


def test_an_answer_that_is_cut_off_is_none(server):
    server.answer = (200, {"content-length": "100"}, b"certificate")

    with pytest.raises(TransportError, match="its answer ends 89 bytes early"):
        fetcher(server).fetch(f"https://{HOST}/")


def test_a_server_that_nothing_vouches_for_gets_no_request(server, tmp_path):
    stranger = create_authority("Stranger", days=2)
    (tmp_path / "ca.pem").write_bytes(stranger.certificate_pem)

    with pytest.raises(TransportError, match="cannot be fetched"):
        fetcher(server, ca_file=tmp_path / "ca.pem").fetch(f"https://{HOST}/")
    assert server.requests == []


def test_a_file_without_roots_is_told(server, tmp_path):
    (tmp_path / "ca.pem").write_text("nothing")

    with pytest.raises(FormatError, match="expected PEM certificates, found none"):
        fetcher(server, ca_file=tmp_path / "ca.pem").fetch(f"https://{HOST}/")


def test_a_host_that_cannot_be_resolved_or_reached_is_told(server):
    class Nowhere(LoopbackNetwork):
        def resolve(self, host, port):
            raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(TransportError, match="cannot be resolved: name or service not known"):
        fetcher(server, Nowhere()).fetch(f"https://{HOST}/")
    with pytest.raises(TransportError, match="it has no address"):
        fetcher(server, LoopbackNetwork(addresses=())).fetch(f"https://{HOST}/")


def test_the_systems_own_resolver_and_sockets_serve(server):
    network = SystemNetwork()

    assert network.resolve("127.0.0.1", server.port) == ["127.0.0.1"]
    with network.connect("127.0.0.1", server.port, seconds=10) as sock:
        assert sock.getpeername() == ("127.0.0.1", server.port)


def test_what_was_fetched_verifies_a_package_that_names_it(server, tmp_path):
    url = f"https://{HOST}/packages.pem"
    write_pair(tmp_path, "sign")
    workshop = make_workshop(tmp_path, tmp_path)
    assert workshop.build("--cert-url", url).returncode == 0
    command = ["verify", "x", "--trust", str(tmp_path / "sign.pem"), "--ca-file", str(server.ca_file)]
    options = parse([*command, "--fetch-certificate", HOST.upper()])
    server.answer = (200, {}, (tmp_path / "sign.pem").read_bytes())

    with workshop.package.open("rb") as file:
        verification = verification_from(options, file, network=LoopbackNetwork(server.port))
        opened = open_package(
            file,
            workshop.package.stat().st_size,
            class_key=lambda _: Secret(CLASS_KEY),
            trust=verification.trust,
            at=verification.at,
            requirements=verification.requirements,
            sink=lambda _: None,
        )

    assert opened.signer.subject == "CN=Test sign"
    assert [request[0] for request in server.requests] == ["/packages.pem"]
