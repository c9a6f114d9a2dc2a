"""What a running runner's metrics say of its configuration, and a watch on it: the other end of `v13.live.reload`."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from v13.errors import FeedError

__all__ = ["Facts", "read_facts", "watch"]

TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.5  # a bar closes once a second, and a reload waits for one


class Facts(NamedTuple):
    """The configuration in force and how the last reload went, in the order of docs/metrics.md."""

    version: int
    label: str  # version and hash
    swing_L: str
    z_hi: str
    z_mid: str
    signed_off: bool
    n_ok: int
    n_refused: int
    successful: bool
    success_s: float  # Unix time of the last load that was taken
    n_bars: int
    symbols: tuple[str, ...]  # followed on a feed, or played

    def shown(self) -> str:
        """Return it in one line."""
        state = "successful" if self.successful else "REFUSED"
        at = datetime.fromtimestamp(self.success_s, UTC).isoformat(timespec="seconds")
        return (
            f"version {self.label} (swing_L {self.swing_L}, z_hi {self.z_hi}, z_mid {self.z_mid}"
            f"{'' if self.signed_off else ', not signed off'}) for {', '.join(self.symbols)}; last reload {state}; "
            f"{self.n_ok} taken, {self.n_refused} refused; last taken {at}"
        )


def read_facts(url: str) -> Facts:
    """Scrape a runner.

    Parameters
    ----------
    url : str
        Of its /metrics.

    Raises
    ------
    FeedError
        It cannot be reached, or what answers is no runner.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            text = answer.read().decode()
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    except (OSError, HTTPException, ValueError) as error:
        raise FeedError(f"{url}: no metrics: {getattr(error, 'reason', error)}") from error
    config = [s.labels for s in samples if s.name == "divergence_active_config_info" and s.value == 1]
    if len(config) != 1:
        raise FeedError(f"{url}: expected one configuration in force, found {len(config)}; is this a v13 runner?")
    values = {(s.name, s.labels.get("result", "")): s.value for s in samples}
    own = config[0]
    return Facts(
        int(own["version"].partition("-")[0]),
        own["version"],
        own["swing_L"],
        own["z_hi"],
        own["z_mid"],
        values["divergence_signed_off", ""] == 1,
        int(values["divergence_config_reloads_total", "ok"]),
        int(values["divergence_config_reloads_total", "refused"]),
        values["divergence_config_last_reload_successful", ""] == 1,
        values["divergence_config_last_reload_success_timestamp_seconds", ""],
        int(values["divergence_bars_total", ""]),
        tuple(s.labels["symbol"] for s in samples if s.name == "divergence_feed_staleness_seconds"),
    )


def watch(
    url: str, say: Callable[[str], None], *, is_over: Callable[[], bool] = lambda: False, poll_s: float = POLL_S
) -> None:
    """Say what a runner's configuration is, and every change of that, until interrupted or over.

    Parameters
    ----------
    url : str
        Of its /metrics.
    say : callable
        Takes one line.
    is_over : callable
        Asked between looks.
    poll_s : float, s
    """
    last = ""
    while not is_over():
        try:
            now = read_facts(url).shown()
        except FeedError as error:
            now = str(error)
        if now != last:
            say(f"{datetime.now(UTC).isoformat(timespec='seconds')}  {now}")
            last = now
        time.sleep(poll_s)
