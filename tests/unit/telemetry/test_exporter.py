"""The exporter on real loopback sockets: what it answers, whom it lets in, and that no client holds it up."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import json
import logging
import select
import socket
import ssl
import subprocess
import threading
import time
import warnings

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from v13.errors import ConfigError
from v13.telemetry import BasicAuth, Health, Metrics, TLSFiles, server, start_exporter

WAIT_S = 30.0
WELL = Health(healthy=True, ready=True)
# What Prometheus 2.42 and 3.5 send.
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;"
    "q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
AUTH = BasicAuth("prometheus", hashlib.sha256("pässword:with colon".encode()).hexdigest())


def start(metrics=None, health=lambda: WELL, **options):
    return start_exporter(
        metrics or Metrics((10, 20), ["BTCUSDT"]), health, options.pop("host", "127.0.0.1"), 0, **options
    )


def ask(exporter, path="/metrics", headers=None, method="GET", context=None):
    """Return status, headers and body of one request on a connection of its own."""
    if context is None:
        connection = http.client.HTTPConnection(exporter.host, exporter.port, timeout=WAIT_S)
    else:
        connection = http.client.HTTPSConnection("localhost", exporter.port, timeout=WAIT_S, context=context)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=WAIT_S)


def make_certificate(folder, name, *more):
    """Return a fresh certificate for localhost and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *(more or ("-nodes",)))
    who = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2")
    openssl("req", "-x509", *kind, *who, "-keyout", key, "-out", cert)
    return cert, key


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"), "server")


def trust(cert):
    return ssl.create_default_context(cafile=str(cert))


def is_hung_up(sock):
    """Tell whether the other side closes, well before a client's time is up."""
    sock.settimeout(server.CLIENT_S / 2)
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_a_scrape_is_the_text_format_unless_asked_otherwise():
    metrics = Metrics((10,))
    metrics.inc("divergence_bars_total", 3)
    with start(metrics) as exporter:
        status, headers, body = ask(exporter)
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert int(headers["Content-Length"]) == len(body)
    values = {s.name: s.value for family in parse_text(body.decode()) for s in family.samples}
    assert values["divergence_bars_total"] == 3.0
    assert "process_cpu_seconds_total" in values


@pytest.mark.parametrize("accept", [PROMETHEUS_2, PROMETHEUS_3, "application/openmetrics-text"])
def test_a_scrape_is_openmetrics_where_it_is_accepted(accept):
    with start() as exporter:
        _, headers, body = ask(exporter, headers={"Accept": accept})
    assert headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert {family.name for family in parse_openmetrics(body.decode())} >= {"divergence_bars", "process_cpu_seconds"}


@pytest.mark.parametrize(
    "accept",
    ["text/plain", "*/*", "", "application/openmetrics-text;version=0.0.1", "application/openmetrics-text;version=x"],
)
def test_a_scrape_that_takes_no_openmetrics_1_is_text(accept):
    with start() as exporter:
        status, headers, _ = ask(exporter, headers={"Accept": accept})
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")


def test_a_scrape_is_gzipped_where_accepted_and_says_the_same():
    with start() as exporter:
        _, headers, body = ask(exporter, headers={"Accept-Encoding": "deflate, gzip;q=0.5"})
        _, plain_headers, plain = ask(exporter)
    assert headers["Content-Encoding"] == "gzip"
    assert plain_headers["Content-Encoding"] is None

    def ours(text):
        return [line for line in text.splitlines() if line.startswith(b"divergence")]

    assert ours(gzip.decompress(body)) == ours(plain)


def test_head_has_the_headers_and_no_body():
    with start() as exporter, socket.create_connection((exporter.host, exporter.port), WAIT_S) as raw:
        raw.sendall(b"HEAD /metrics HTTP/1.0\r\n\r\n")
        head, _, body = b"".join(iter(lambda: raw.recv(65_536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 ")
    assert b"\r\nContent-Length: " in head
    assert body == b""


def test_a_query_changes_nothing_and_other_paths_and_methods_are_refused():
    with start() as exporter:
        assert ask(exporter, "/metrics?name[]=x")[0] == 200
        status, _, body = ask(exporter, "/")
        assert (status, body) == (404, b"there are /metrics, /-/healthy, /-/ready\n")
        assert ask(exporter, "/metrics/../etc/passwd")[0] == 404
        assert ask(exporter, "/metrics", method="POST")[0] == 501


@pytest.mark.parametrize(
    ("health", "healthy", "ready"),
    [
        (Health(True, True), (200, b"ok\n"), (200, b"ok\n")),
        (Health(True, False, "BTCUSDT: 12 of 300 bars"), (200, b"ok\n"), (503, b"BTCUSDT: 12 of 300 bars\n")),
        (Health(False, True, "größer"), (503, "größer\n".encode()), (503, "größer\n".encode())),
        (Health(False, False), (503, b"no reason given\n"), (503, b"no reason given\n")),
    ],
)
def test_health_and_readiness_are_told_with_the_reason(health, healthy, ready):
    with start(health=lambda: health) as exporter:
        for path, expected in (("/-/healthy", healthy), ("/-/ready", ready)):
            status, headers, body = ask(exporter, path)
            assert (status, body) == expected
            assert headers["Content-Type"] == "text/plain; charset=utf-8"


def test_health_is_asked_anew_each_time():
    answers = [Health(True, False, "cold"), WELL]
    with start(health=lambda: answers.pop(0)) as exporter:
        assert [ask(exporter, "/-/ready")[0] for _ in range(2)] == [503, 200]


def test_a_health_that_fails_is_an_error_in_the_log_and_the_exporter_goes_on(caplog):
    metrics = Metrics((10,))
    metrics.bind("divergence_queue_size").set_function(lambda: 1 // 0)
    with start(metrics, health=lambda: json.loads("{")) as exporter:
        for path in ("/-/ready", "/metrics"):
            status, _, body = ask(exporter, path)
            assert (status, body) == (500, b"the runner could not tell; see its log\n")
        metrics.set("divergence_queue_size", 0)
        assert ask(exporter)[0] == 200
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in logged] == ["/-/ready failed", "/metrics failed"]
    assert all(record.exc_info for record in logged)


@pytest.mark.parametrize("path", ["/metrics", "/-/healthy", "/-/ready", "/elsewhere"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("prometheus", "wrong"),
        basic("Prometheus", "pässword:with colon"),
        basic("prometheus", ""),
        {"Authorization": "Basic"},
        {"Authorization": "Basic %%%"},
        {"Authorization": "Basic \xfc\xfc"},
        {"Authorization": basic("prometheus", "pässword:with colon")["Authorization"].replace("Basic", "Bearer")},
    ],
    ids=["nothing", "password", "user", "empty", "no token", "no base64", "no ascii", "scheme"],
)
def test_without_the_right_user_and_password_nothing_is_told(path, headers):
    with start(auth=AUTH) as exporter:
        status, answer, body = ask(exporter, path, headers)
    assert (status, body) == (401, b"user and password, please\n")
    assert answer["WWW-Authenticate"].startswith("Basic ")


def test_the_right_user_and_password_are_let_in_however_the_digest_is_written():
    headers = basic("prometheus", "pässword:with colon")
    for auth in (AUTH, (AUTH.user, AUTH.password_sha256.upper())):
        with start(auth=auth) as exporter:
            assert [ask(exporter, path, headers)[0] for path in ("/metrics", "/-/healthy", "/x")] == [200, 200, 404]


@pytest.mark.parametrize("auth", [("a:b", AUTH.password_sha256), ("a", "secret"), ("a", AUTH.password_sha256 + "0")])
def test_a_login_that_cannot_work_is_refused_without_telling_it(auth):
    with pytest.raises(ConfigError, match="SHA-256 of the password, 64 hex digits") as refused:
        start(auth=auth)
    assert auth[1] not in str(refused.value)


def test_a_port_in_use_is_named_with_the_way_out():
    with start() as exporter:
        with pytest.raises(ConfigError) as refused:
            start_exporter(Metrics((10,)), lambda: WELL, "127.0.0.1", exporter.port)
        assert f"127.0.0.1 port {exporter.port}: the port is in use" in str(refused.value)
        assert f"ss -ltnp 'sport = :{exporter.port}'" in str(refused.value)
        assert "choose another port" in str(refused.value)
        assert ask(exporter)[0] == 200


@pytest.mark.parametrize(
    ("host", "port", "why"),
    [
        ("192.0.2.1", 0, "this machine has no such address"),  # a block for documentation, RFC 5737
        ("no host", 0, "give a name or address"),
        ("127.0.0.1", 70_000, "ports from 0 to 65535"),
        ("127.0.0.1", -1, "ports from 0 to 65535"),
    ],
)
def test_an_address_that_cannot_be_listened_on_is_named(host, port, why):
    with pytest.raises(ConfigError, match=why) as refused:
        start_exporter(Metrics((10,)), lambda: WELL, host, port)
    assert f"{host} port {port}" in str(refused.value)


def test_after_a_close_the_port_is_free_at_once_and_clients_are_hung_up():
    exporter = start()
    ask(exporter)  # leaves a closed connection in TIME_WAIT
    with socket.create_connection((exporter.host, exporter.port), WAIT_S) as silent:
        ask(exporter)  # so the silent one before it has been accepted
        exporter.close()
        assert is_hung_up(silent)
    exporter.close()
    with pytest.raises(ConnectionRefusedError):
        ask(exporter)
    with start_exporter(Metrics((10,)), lambda: WELL, exporter.host, exporter.port) as again:
        assert ask(again)[0] == 200


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_silent_client_delays_nobody(certificate, is_tls):
    tls, context = (certificate, trust(certificate[0])) if is_tls else (None, None)
    with start(tls=tls) as exporter, socket.create_connection((exporter.host, exporter.port), WAIT_S):
        began = time.monotonic()
        assert ask(exporter, context=context)[0] == 200
        assert time.monotonic() - began < server.CLIENT_S / 2


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_client_that_drips_is_hung_up_in_time(monkeypatch, certificate, is_tls):
    monkeypatch.setattr(server, "CLIENT_S", 0.3)
    with start(tls=certificate if is_tls else None) as exporter:
        with socket.create_connection((exporter.host, exporter.port), WAIT_S) as drip:
            began, is_open = time.monotonic(), True
            # A TLS record of 16 kB is announced, so that the handshake waits for more.
            drip.sendall(b"\x16\x03\x01\x3f\xff" if is_tls else b"GET /metrics HTTP/1.0\r\nX-Slow: ")
            while is_open and time.monotonic() - began < WAIT_S:
                try:
                    drip.sendall(b"a")
                    is_open = not (select.select([drip], [], [], 0.05)[0] and drip.recv(1) == b"")
                except (BrokenPipeError, ConnectionResetError):
                    is_open = False
        assert not is_open
        monkeypatch.undo()
        assert ask(exporter, context=trust(certificate[0]) if is_tls else None)[0] == 200


def test_too_many_clients_are_refused_until_some_leave(monkeypatch):
    monkeypatch.setattr(server, "MAX_CLIENTS", 2)
    with start() as exporter:
        address = (exporter.host, exporter.port)
        with (
            socket.create_connection(address, WAIT_S),
            socket.create_connection(address, WAIT_S),
            socket.create_connection(address, WAIT_S) as third,
        ):
            assert is_hung_up(third)
        deadline, status = time.monotonic() + WAIT_S, None
        while status != 200 and time.monotonic() < deadline:  # until the server has seen them leave
            try:
                status = ask(exporter)[0]
            except (http.client.RemoteDisconnected, ConnectionResetError):
                status = None
        assert status == 200


def test_twenty_scrapes_at_once_are_all_answered():
    statuses = []
    with start() as exporter:
        threads = [threading.Thread(target=lambda: statuses.append(ask(exporter)[0])) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
    assert statuses == [200] * 20


def test_tls_serves_the_certificate_and_nothing_older_than_1_2(certificate):
    with start(tls=certificate, auth=AUTH) as exporter:
        context = trust(certificate[0])
        assert ask(exporter, headers=basic("prometheus", "pässword:with colon"), context=context)[0] == 200
        assert ask(exporter, context=context)[0] == 401
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context.minimum_version = context.maximum_version = version
            assert ask(exporter, "/x", context=context)[0] == 401
        old = trust(certificate[0])
        with warnings.catch_warnings(action="ignore"):  # Python warns of TLS 1.1
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError):
            ask(exporter, context=old)


def test_a_client_that_does_not_trust_the_certificate_gets_nothing_and_the_exporter_goes_on(certificate, tmp_path):
    other, _ = make_certificate(tmp_path, "other")
    with start(tls=TLSFiles(*certificate)) as exporter:
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(exporter, context=trust(other))
        with pytest.raises((http.client.BadStatusLine, ConnectionResetError)):
            ask(exporter)  # plain HTTP on a TLS port
        assert ask(exporter, context=trust(certificate[0]))[0] == 200


def test_a_renewed_certificate_is_taken_at_the_next_connection_and_a_broken_one_is_not(tmp_path, caplog):
    cert, key = make_certificate(tmp_path, "server")
    renewed, renewed_key = make_certificate(tmp_path, "renewed")
    with start(tls=(cert, key)) as exporter:
        assert ask(exporter, context=trust(cert))[0] == 200
        new = trust(renewed)
        cert.write_bytes(renewed.read_bytes())  # half of the renewal: certificate and key do not fit
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(exporter, context=new)
        assert "the old ones stay" in caplog.text
        renewed_key.replace(key)
        assert ask(exporter, context=new)[0] == 200
        key.unlink()
        assert ask(exporter, context=new)[0] == 200


def test_tls_files_that_cannot_be_used_are_named(tmp_path, certificate):
    cert, key = certificate
    _, stranger = make_certificate(tmp_path, "stranger")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    for files, why in [
        ((tmp_path / "none.pem", key), "none.pem"),
        ((cert, tmp_path / "none.key"), "none.key"),
        ((cert, stranger), f"{cert} and {stranger} are no certificate and key that fit"),
        ((garbage, key), f"{garbage} and {key} are no certificate and key that fit"),
    ]:
        with pytest.raises(ConfigError, match="exporter") as refused:
            start(tls=files)
        assert why in str(refused.value)


def test_an_encrypted_key_is_refused_and_not_asked_for_at_the_terminal(tmp_path):
    files = make_certificate(tmp_path, "locked", "-passout", "pass:secret")
    with pytest.raises(ConfigError, match="takes no encrypted key"):
        start(tls=files)


def test_nothing_of_the_interpreter_is_told():
    with start() as exporter:
        assert "ython" not in str(ask(exporter)[1])


def test_requests_are_not_logged_at_the_usual_level(caplog, capfd):
    with caplog.at_level(logging.INFO), start() as exporter:
        ask(exporter)
        with socket.create_connection((exporter.host, exporter.port), WAIT_S) as rude:
            rude.sendall(b"\x00\xff garbage\r\n\r\n")
            rude.settimeout(WAIT_S)
            rude.recv(1)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
