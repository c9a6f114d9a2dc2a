"""The dashboard handed to Grafana over HTTP, against a local stand-in of that API, as no Grafana can be had here.

The stand-in answers as Grafana's HTTP API documents it: status codes, messages, versions, folders.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.conftest import REPO
from v13.errors import ConfigError, V13Error
from v13.release.ports import free_port
from v13.telemetry.dashboard import UID, dashboard_json
from v13.telemetry.grafana import Grafana
from v13.telemetry.overview import DEPLOY_TAGS
from v13.telemetry.slo import load_slo

EDITOR, VIEWER = "glsa_editor", "glsa_viewer"
FOLDERS = ("v13folder",)


class StandIn(BaseHTTPRequestHandler):
    """What of Grafana's API is used."""

    dashboards: ClassVar[dict[str, dict[str, Any]]] = {}
    annotations: ClassVar[list[dict[str, Any]]] = []
    provisioned: ClassVar[set[str]] = set()
    trouble: ClassVar[int] = 0
    root: ClassVar[str] = ""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        path = self.path.removeprefix(self.root) if self.path.startswith(f"{self.root}/") else ""
        if self.trouble:
            self.say(self.trouble, {"message": "Failed to save dashboard"})
        elif token not in (EDITOR, VIEWER):
            self.say(401, {"message": "Invalid API key"})
        elif token == VIEWER:
            self.say(403, {"message": "You'll need additional permissions to perform this action."})
        elif path == "/api/dashboards/db":
            self.dashboard(body)
        elif path == "/api/annotations":
            self.annotations.append(body)
            self.say(200, {"message": "Annotation added", "id": len(self.annotations)})
        else:
            self.say(404, {"message": "Not found"})

    def dashboard(self, body: dict[str, Any]) -> None:
        found = body["dashboard"]
        old = self.dashboards.get(found["uid"])
        if body.get("folderUid") not in (None, *FOLDERS):
            self.say(400, {"message": "folder not found"})
        elif found["uid"] in self.provisioned:
            self.say(400, {"message": "Cannot save provisioned dashboard"})
        elif found.get("id") is not None and (old is None or old["id"] != found["id"]):
            self.say(404, {"status": "not-found", "message": "Dashboard not found"})
        elif old is not None and not body.get("overwrite"):
            self.say(412, {"status": "version-mismatch", "message": "The dashboard has been changed by someone else"})
        else:
            version = 1 if old is None else old["version"] + 1
            number = len(self.dashboards) + 1 if old is None else old["id"]
            self.dashboards[found["uid"]] = {**body, "version": version, "id": number}
            url = f"{self.root}/d/{found['uid']}/v13"
            answer = {"id": number, "uid": found["uid"], "url": url, "status": "success", "version": version}
            self.say(200, {**answer, "slug": "v13"})

    def say(self, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's signature
        """Say nothing."""


@contextmanager
def grafana(tls: tuple[Path, Path] | None = None, **settings: Any) -> Iterator[tuple[str, type[StandIn]]]:
    """Yield the stand-in's URL, and its class, whose attributes are what it holds."""
    handler = type("Grafana", (StandIn,), {"dashboards": {}, "annotations": [], **settings})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            name = "https://localhost" if tls else "http://127.0.0.1"
            yield f"{name}:{server.server_address[1]}{handler.root}", handler
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(dashboard_json(load_slo(REPO / "config" / "slo.yaml")))
    return found


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(["openssl", "req", "-x509", *made, *names], check=True, capture_output=True)
    return cert, key


def test_a_new_dashboard_is_made_and_the_next_import_replaces_it(document: dict[str, Any]) -> None:
    with grafana() as (url, seen), Grafana(url, EDITOR) as client:
        first = client.import_dashboard(document, message="v13 deploy 1")
        second = client.import_dashboard({**document, "id": 77}, message="v13 deploy 2", folder_uid="v13folder")
    assert (first.uid, first.version, first.url) == (UID, 1, f"{url}/d/{UID}/v13")
    assert second.version == 2
    stored = seen.dashboards[UID]
    assert stored["dashboard"] == {**document, "id": None}, "an id of another server must not travel"
    assert (stored["message"], stored["folderUid"]) == ("v13 deploy 2", "v13folder")


def test_a_grafana_under_a_path_is_found_there(document: dict[str, Any]) -> None:
    with grafana(root="/grafana") as (url, _), Grafana(f"{url}/", EDITOR) as client:
        assert client.import_dashboard(document).url == f"{url}/d/{UID}/v13"


def test_a_deploy_is_marked_with_the_tags_the_dashboard_shows(document: dict[str, Any]) -> None:
    with grafana() as (url, seen), Grafana(url, EDITOR) as client:
        assert client.annotate("deployed 13.0.0", DEPLOY_TAGS, 1_764_000_000_000) == 1
    assert seen.annotations == [{"text": "deployed 13.0.0", "tags": ["v13", "deploy"], "time": 1_764_000_000_000}]
    shown = next(mark for mark in document["annotations"]["list"] if mark["name"] == "Deploys")
    assert set(shown["target"]["tags"]) <= set(seen.annotations[0]["tags"])


@pytest.mark.parametrize(
    ("token", "settings", "options", "kind", "text"),
    [
        ("glsa_wrong", {}, {}, ConfigError, "status 401, 'Invalid API key': the token is not known"),
        (VIEWER, {}, {}, ConfigError, "status 403.*needs the role Editor"),
        (EDITOR, {}, {"folder_uid": "gone"}, ConfigError, "status 400, 'folder not found'"),
        (
            EDITOR,
            {"provisioned": {UID}},
            {},
            ConfigError,
            "'Cannot save provisioned dashboard'.*provisioned from a file",
        ),
        (EDITOR, {"trouble": 412}, {}, ConfigError, "status 412.*in the way"),
        (EDITOR, {"trouble": 500}, {}, V13Error, "status 500.*Grafana failed; see its log"),
        (EDITOR, {"trouble": 302}, {}, ConfigError, "status 302.*expected Grafana at that URL"),
        (EDITOR, {"root": "/elsewhere"}, {}, ConfigError, "status 404"),
    ],
)
def test_what_grafana_refuses_is_told_with_what_to_do_and_without_the_token(
    document: dict[str, Any],
    token: str,
    settings: dict[str, Any],
    options: dict[str, str],
    kind: type[V13Error],
    text: str,
) -> None:
    with grafana(**settings) as (url, seen), Grafana(url.removesuffix("/elsewhere"), token) as client:
        with pytest.raises(kind, match=text) as caught:
            client.import_dashboard(document, **options)
        assert seen.dashboards == {}
    assert type(caught.value) is kind
    assert token not in str(caught.value)


def test_a_server_that_is_no_grafana_or_not_there_is_told(document: dict[str, Any]) -> None:
    with pytest.raises(V13Error, match=r"Grafana cannot be reached.*is it running"):
        Grafana(f"http://127.0.0.1:{free_port()}", EDITOR).import_dashboard(document)


def test_a_certificate_nobody_vouches_for_is_refused_until_its_ca_is_named(
    document: dict[str, Any], certificate: tuple[Path, Path]
) -> None:
    with grafana(tls=certificate) as (url, seen):
        with Grafana(url, EDITOR) as client, pytest.raises(ConfigError, match=r"is not trusted.*name its CA file"):
            client.import_dashboard(document)
        assert seen.dashboards == {}
        with Grafana(url, EDITOR, ca_file=certificate[0]) as client:
            assert client.import_dashboard(document).version == 1


@pytest.mark.parametrize("token", ["", "  ", "two\nlines", "schlüssel"])
def test_a_token_that_is_none_is_refused_before_anything_is_sent(token: str) -> None:
    with pytest.raises(ConfigError, match="expected a token"):
        Grafana("http://localhost:3000", token)


@pytest.mark.parametrize("url", ["localhost:3000", "ftp://localhost", "http://", "http://local host:x"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="no URL of a Grafana server"):
        Grafana(url, EDITOR)


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    for name in ("gone.pem", "ca.pem"):
        with pytest.raises(ConfigError, match=f"{name}: certificates to trust cannot be read"):
            Grafana("https://localhost:3000", EDITOR, ca_file=tmp_path / name)
