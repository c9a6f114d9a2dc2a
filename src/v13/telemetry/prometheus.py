"""A Prometheus server asked over HTTP: its answers as arrays, and what went wrong in words.

It asks and never writes. It knows no metric and no panel.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from v13.errors import ConfigError, DataError, V13Error

__all__ = ["MAX_POINTS", "Prometheus", "Series", "web_client"]

TIMEOUT_S: Final = 30.0
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
MAX_POINTS: Final = 11_000  # of one series in one answer: Prometheus refuses more


@dataclass(frozen=True)
class Series:
    """One time series of an answer.

    Attributes
    ----------
    labels : mapping of str to str
        With `__name__` where the query kept it.
    ts_s : (n,) float64, Unix seconds, ascending
    values : (n,) float64
        NaN and infinities as Prometheus said them. n is 1 in the answer to an instant query.
    """

    labels: Mapping[str, str]
    ts_s: NDArray[np.float64]
    values: NDArray[np.float64]


class Prometheus:
    """A client of one Prometheus server; a context manager.

    Parameters
    ----------
    url : str
        Such as `http://localhost:9090`; a path before `/api` is kept.
    ca_file : Path, optional
        PEM certificates to trust instead of the system's.
    auth : (str, str), optional
        User and password.
    timeout_s : float, s
        Longest wait for an answer.

    Raises
    ------
    ConfigError
        The URL is none, or the certificates cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        ca_file: Path | None = None,
        auth: tuple[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.url = url.rstrip("/")
        self._client = web_client("Prometheus", self.url, ca_file=ca_file, timeout_s=timeout_s, auth=auth)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._client.close()

    def version(self) -> str:
        """Return the server's version; errors as `instant`."""
        return str(self._ask("/api/v1/status/buildinfo", None).get("version", "unknown"))

    def instant(self, expr: str, at_s: float) -> list[Series]:
        """Return what a query gives at one time.

        Parameters
        ----------
        expr : str
            PromQL that gives numbers.
        at_s : float, Unix seconds

        Returns
        -------
        list of Series, one point each
            In order of their labels; a scalar is one series without labels.

        Raises
        ------
        ConfigError
            Nobody Prometheus-like is at that URL, it lets us not in, or its certificate is not trusted.
        DataError
            The query was refused, or its result is no numbers.
        V13Error
            The server cannot be reached, took too long, or failed.
        """
        return self._series(expr, self._ask("/api/v1/query", {"query": expr, "time": f"{at_s:.3f}"}))

    def range(self, expr: str, start_s: float, end_s: float, step_s: float) -> list[Series]:
        """Return what a query gives along a time, both ends included.

        Parameters
        ----------
        expr : str
        start_s, end_s : float, Unix seconds, start <= end
        step_s : float, s, > 0

        Returns
        -------
        list of Series
            In order of their labels; points where the query gave nothing are left out.

        Raises
        ------
        ConfigError, DataError, V13Error
            See `instant`; DataError also for more than MAX_POINTS points.
        """
        if not (step_s > 0.0 and start_s <= end_s):
            raise DataError(f"expected start <= end and a positive step, found {start_s}, {end_s}, {step_s}")
        if (end_s - start_s) / step_s >= MAX_POINTS:
            raise DataError(f"{(end_s - start_s) / step_s:,.0f} points a series are too many; take a longer step")
        form = {"query": expr, "start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": f"{step_s:.3f}"}
        return self._series(expr, self._ask("/api/v1/query_range", form))

    def _ask(self, path: str, form: Mapping[str, str] | None) -> dict[str, Any]:
        # POST, as the expression of a panel may be longer than a URL should be.
        try:
            answer = (
                self._client.get(self.url + path) if form is None else self._client.post(self.url + path, data=form)
            )
        except httpx.HTTPError as error:
            raise unreachable("Prometheus", self.url, error) from error
        if answer.status_code in (401, 403):
            raise ConfigError(
                f"{self.url}: Prometheus lets us not in (status {answer.status_code}); check user, password"
            )
        try:
            document = answer.json()
            status = document["status"]
        except (ValueError, KeyError, TypeError) as error:
            text = f"status {answer.status_code}, {answer.headers.get('content-type', 'no type')}"
            if answer.status_code in (502, 503, 504):
                raise V13Error(f"{self.url}: Prometheus is not ready ({text}); try again") from error
            raise ConfigError(f"{self.url}: expected Prometheus's API there, found something else ({text})") from error
        if status != "success":
            kind = DataError if document.get("errorType") in ("bad_data", "execution") else V13Error
            query = f"; the query was: {form['query']}" if form else ""
            raise kind(f"{self.url}: Prometheus refused: {document.get('error', 'no reason given')}{query}")
        data = document.get("data")
        if not isinstance(data, dict):
            raise ConfigError(f"{self.url}: expected Prometheus's API there, found an answer without data")
        return data

    def _series(self, expr: str, data: dict[str, Any]) -> list[Series]:
        kind, result = data.get("resultType"), data.get("result")
        if kind == "scalar":
            result = [{"metric": {}, "value": result}]
        elif kind not in ("vector", "matrix"):
            raise DataError(f"{self.url}: expected numbers, found a {kind}; the query was: {expr}")
        try:
            found = [_one(entry) for entry in result or ()]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise DataError(f"{self.url}: expected series, found another answer; the query was: {expr}") from error
        return sorted(found, key=lambda series: sorted(series.labels.items()))


def _one(entry: dict[str, Any]) -> Series:
    points = entry.get("values") or [entry["value"]]
    return Series(
        labels=entry["metric"],
        ts_s=np.array([t for t, _ in points], dtype=np.float64),
        values=np.array([float(v) for _, v in points], dtype=np.float64),  # float() reads NaN, +Inf and -Inf
    )


def web_client(
    what: str,
    url: str,
    *,
    ca_file: Path | None,
    timeout_s: float,
    auth: tuple[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> httpx.Client:
    """Return an HTTP client for a server of that kind.

    Raises
    ------
    ConfigError
        The URL is none, or the certificates cannot be read.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{url!r}: no URL of a {what} server: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"{url!r}: no URL of a {what} server; it looks like http://localhost:9090")
    try:
        # Reading the system's certificates takes longer than most questions: plain HTTP asks for none.
        is_plain = parsed.scheme == "http" and ca_file is None
        verify = False if is_plain else ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca_file}: certificates to trust cannot be read: {error}") from error
    # A proxy of the shell's, and passwords in its ~/.netrc, are not for a server on this machine.
    is_here = parsed.host in LOOPBACK
    return httpx.Client(timeout=timeout_s, verify=verify, auth=auth, headers=headers, trust_env=not is_here)


def unreachable(what: str, url: str, error: httpx.HTTPError) -> V13Error:
    """Return what to tell of a request that got no answer."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return ConfigError(f"{url}: the certificate of {what} is not trusted ({error}); name its CA file")
    if isinstance(error, httpx.TimeoutException):
        return V13Error(f"{url}: {what} gave no answer in time; ask for less, or wait longer")
    return V13Error(f"{url}: {what} cannot be reached: {error or type(error).__name__}; is it running?")
