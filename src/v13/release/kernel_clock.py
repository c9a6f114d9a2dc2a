"""What the kernel says of its clock: whether something keeps it in step with the world, and how far off it may be.

It reads (adjtimex with nothing to set) and never sets; where the system does not tell, so does this.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import Final, NamedTuple

__all__ = ["KernelClock", "kernel_clock"]

BYTES: Final = 512  # struct timex has 208 on 64-bit Linux; more does no harm
LAYOUT: Final = "@I4xqqqqi"  # modes, offset, freq, maxerror, esterror, status (adjtimex(2))
TIME_ERROR: Final = 5
STA_UNSYNC: Final = 0x0040
US_PER_S: Final = 1_000_000


class KernelClock(NamedTuple):
    """The kernel's word.

    Attributes
    ----------
    is_synchronised : bool
    max_error_s : float, s
        What it may be off at most, by its own reckoning.
    """

    is_synchronised: bool
    max_error_s: float


def kernel_clock() -> KernelClock | None:
    """Return what the kernel says; None where it does not, as on other systems or in some sandboxes."""
    if sys.platform != "linux" or struct.calcsize("P") != 8:
        return None
    buffer = ctypes.create_string_buffer(BYTES)
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    _, _, _, max_error_us, _, status = struct.unpack_from(LAYOUT, buffer)
    return KernelClock(state != TIME_ERROR and not status & STA_UNSYNC, max_error_us / US_PER_S)
