"""A Grafana server told over HTTP: the dashboard imported, a deploy marked. The token is never shown.

It makes no dashboard and reads no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import httpx

from v13.errors import ConfigError, V13Error
from v13.telemetry.prometheus import unreachable, web_client

__all__ = ["Grafana", "Imported"]

TIMEOUT_S: Final = 30.0


class Imported(NamedTuple):
    """A dashboard as Grafana has it now.

    Attributes
    ----------
    uid : str
    url : str
        To open in a browser.
    version : int
        Of the dashboard, counted by Grafana.
    """

    uid: str
    url: str
    version: int


class Grafana:
    """A client of one Grafana server; a context manager.

    Parameters
    ----------
    url : str
        Such as `http://localhost:3000`; a path is kept.
    token : str
        Of a service account that may write dashboards (role Editor).
    ca_file : Path, optional
        PEM certificates to trust instead of the system's.
    timeout_s : float, s

    Raises
    ------
    ConfigError
        The URL is none, the token is empty or holds line ends, or the certificates cannot be read.
    """

    def __init__(self, url: str, token: str, *, ca_file: Path | None = None, timeout_s: float = TIMEOUT_S) -> None:
        if not token.strip() or not token.isascii() or not token.isprintable():
            raise ConfigError(f"{url}: expected a token of Grafana, one line of plain characters, found none")
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token.strip()}"}
        self._client = web_client("Grafana", self.url, ca_file=ca_file, timeout_s=timeout_s, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._client.close()

    def import_dashboard(
        self, dashboard: Mapping[str, Any], *, message: str = "", folder_uid: str | None = None
    ) -> Imported:
        """Put a dashboard in place of the one of its uid, or as a new one.

        Parameters
        ----------
        dashboard : mapping
            As in its JSON file, with a `uid`.
        message : str
            For the list of versions that Grafana keeps.
        folder_uid : str, optional
            Folder to put it in; the general one without.

        Raises
        ------
        ConfigError
            Grafana knows not the token, the folder or the path, or the token may not write, or the dashboard was
            refused; or a provisioned dashboard, which only its file changes.
        V13Error
            Grafana cannot be reached or failed, or answered for another dashboard.

        Notes
        -----
        `POST /api/dashboards/db` of Grafana's HTTP API, with `overwrite`: what is in the file is what production sees.
        """
        # An id is of one database: kept, it would overwrite a stranger on another server.
        body: dict[str, Any] = {"dashboard": {**dashboard, "id": None}, "overwrite": True, "message": message}
        if folder_uid is not None:
            body["folderUid"] = folder_uid
        answer = self._post("/api/dashboards/db", body)
        if answer.get("status") != "success" or answer.get("uid") != dashboard["uid"]:
            raise V13Error(f"{self.url}: expected the dashboard {dashboard['uid']} to be taken, Grafana said {answer}")
        root = httpx.URL(self.url)  # Grafana's answer already holds the path it is served under
        return Imported(str(answer["uid"]), str(root.join(str(answer["url"]))), int(answer["version"]))

    def annotate(self, text: str, tags: Sequence[str], time_ms: int) -> int:
        """Mark a moment on all dashboards that show these tags; return the mark's id.

        Parameters
        ----------
        text : str
        tags : sequence of str
            The dashboard shows `v13` with `deploy`.
        time_ms : int, UTC epoch ms

        Raises
        ------
        ConfigError, V13Error
            See `import_dashboard`.
        """
        return int(self._post("/api/annotations", {"text": text, "tags": list(tags), "time": time_ms})["id"])

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = self._client.post(self.url + path, json=body)
        except httpx.HTTPError as error:
            raise unreachable("Grafana", self.url, error) from error
        try:
            document = answer.json()
        except ValueError:
            document = None
        if answer.status_code == 200 and isinstance(document, dict):
            return document
        said = document.get("message", "") if isinstance(document, dict) else ""
        what = f"{self.url}{path}: status {answer.status_code}" + (f", {said!r}" if said else "")
        if answer.status_code >= 500:
            raise V13Error(f"{what}: Grafana failed; see its log")
        raise ConfigError(f"{what}: {_REASONS.get(answer.status_code, 'expected Grafana at that URL, found another')}")


_REASONS: Final = {
    400: "Grafana refused it: the dashboard is provisioned from a file, or not valid",
    401: "the token is not known, or has expired",
    403: "the token may not do this: its service account needs the role Editor",
    404: "no such folder, or no Grafana at that URL",
    412: "Grafana has another dashboard in the way",
    413: "too large for Grafana or the proxy before it",
    422: "Grafana refused its content",
}
