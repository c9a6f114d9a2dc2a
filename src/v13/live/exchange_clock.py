"""The exchange's clock as seen from here: what its messages say, carried on by ours.

Two clocks differ (the recordings' by 1.3 s), so when a bar is over is asked of this one and never of ours.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ExchangeClock"]

WINDOW_MS: Final = 60_000
PLAUSIBLE_MS: Final = 60_000  # a message further from the others than this has a broken time ...
CONFIRM: Final = 100  # ... until so many in a row agree that the clock has moved
JUMP_MS: Final = 1_000  # one message may put the clock forward by this; a false one would end bars too early ...
SEVERAL: Final = 10  # ... so for more it takes so many within a window


class ExchangeClock:
    """Follows one exchange's time.

    Notes
    -----
    A message can only arrive after it was sent, so of `ts - received` the largest is nearest to the truth. It is taken
    over the last one to two minutes: clocks drift.
    """

    def __init__(self) -> None:
        self._lead_ms: int | None = None  # largest ts - received of this window and the one before
        self._window_lead_ms: int | None = None
        self._window_end_ms = 0
        self._odd: list[int] = []
        self._n_ahead = 0  # messages of this window that are ahead of the clock by more than JUMP_MS

    def accept(self, ts_ms: int, recv_ms: int) -> bool:
        """Learn from a message; tell whether its time can be believed.

        Parameters
        ----------
        ts_ms : int, epoch ms
            The exchange's time of it.
        recv_ms : int, epoch ms
            Ours at its receipt.
        """
        lead = ts_ms - recv_ms
        if self._lead_ms is not None and abs(lead - self._lead_ms) > PLAUSIBLE_MS:
            if self._odd and abs(lead - self._odd[-1]) > PLAUSIBLE_MS:
                self._odd.clear()
            self._odd.append(lead)
            if len(self._odd) < CONFIRM:
                return False
            self._lead_ms = self._window_lead_ms = max(self._odd)
        if self._odd:
            self._odd.clear()
        if self._lead_ms is not None and lead - self._lead_ms > JUMP_MS:
            self._n_ahead += 1
            if self._n_ahead < SEVERAL:
                return True
        if recv_ms >= self._window_end_ms:
            if self._window_lead_ms is not None:
                self._lead_ms = self._window_lead_ms
            self._window_lead_ms = lead
            self._window_end_ms = recv_ms + WINDOW_MS
            self._n_ahead = 0
        elif self._window_lead_ms is None or lead > self._window_lead_ms:
            self._window_lead_ms = lead
        if self._lead_ms is None or lead > self._lead_ms:
            self._lead_ms = lead
        return True

    def accept_all(self, least_ms: int, most_ms: int, recv_ms: int) -> bool:
        """Learn from many messages at once, where they are plain: no jump among them, and of one window.

        Parameters
        ----------
        least_ms, most_ms : int
            The smallest and the largest `ts - received` among them.
        recv_ms : int, epoch ms
            The latest receipt.

        Returns
        -------
        bool
            True: as if each had been accepted. False: nothing was learned; give them to `accept` one by one.
        """
        lead = self._lead_ms
        if lead is None or self._window_lead_ms is None or self._odd or recv_ms >= self._window_end_ms:
            return False
        # While they are taken the lead may rise to `most_ms`, and the others are compared with that.
        if most_ms - lead > JUMP_MS or max(lead, most_ms) - least_ms > PLAUSIBLE_MS:
            return False
        self._window_lead_ms = max(self._window_lead_ms, most_ms)
        self._lead_ms = max(lead, most_ms)
        return True

    def now_ms(self, wall_ms: int) -> int | None:
        """Return the exchange's time at ours, epoch ms; None before the first message."""
        return None if self._lead_ms is None else wall_ms + self._lead_ms
