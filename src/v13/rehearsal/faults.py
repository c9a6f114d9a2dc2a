"""Bad releases: code with a fault in it, as a build that went wrong would have.

A release holds its own copy of the code, so a fault is a file in that copy and nothing in the product: Python imports
`sitecustomize` from it before all else, and that spoils one function of the runner.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import v13
from v13 import store

__all__ = ["FAULTS", "spoilt_code"]

_HEAD: Final = '''"""A rehearsal's fault: {name}. Only the runner is spoilt, and only in this release."""

import sys

if "run" in sys.orig_argv:
'''

# What is wrong, in the words of a release note, and how.
FAULTS: Final[Mapping[str, tuple[str, str]]] = {
    "slow": (
        "each bar takes 40 ms in the detector",
        """
    import time
    from v13.detector import Detector
    def late(act):
        def slowly(*args, **more):
            time.sleep(0.04)
            return act(*args, **more)
        return slowly
    Detector.update, Detector.run = late(Detector.update), late(Detector.run)
""",
    ),
    "errors": (
        "one quote in twenty cannot be read",
        """
    from v13.errors import DataError
    from v13.live import consumer
    read, seen = consumer.decode_quote, [0]
    def badly(raw):
        seen[0] += 1
        if seen[0] % 20 == 0:
            raise DataError("rehearsed: this quote cannot be read")
        return read(raw)
    consumer.decode_quote = badly
    consumer.MANY = sys.maxsize
""",
    ),
    "silent": (
        "after ten seconds nothing of the feed arrives",
        """
    import time
    from v13.live.inbox import Inbox
    put, began_s = Inbox.put, time.monotonic()
    def deafly(self, *args, **more):
        return put(self, *args, **more) if time.monotonic() - began_s < 10 else True
    Inbox.put = deafly
""",
    ),
    "flood": (
        "it takes every wiggle for a divergence",
        """
    from dataclasses import replace
    from v13.live import lane
    detector = lane.Detector
    def loosely(params, *args, **more):
        loose = {"swing_L": 2, "z_hi": 0.2, "z_mid": 0.1, "cooldown_ms": 0, "min_score": 0.0, "min_swing_bps": 0.0}
        loose = replace(params.decision, **loose)
        return detector(replace(params, decision=loose, overrides=()), *args, **more)
    lane.Detector = loosely
""",
    ),
    "crash": (
        "it ends after four seconds, each time",
        """
    import os
    import threading
    timer = threading.Timer(4.0, lambda: os._exit(1))
    timer.daemon = True
    timer.start()
""",
    ),
    "leak": (
        "it keeps 40 MB more each second",
        """
    import threading
    import time
    kept = []
    def leak():
        while len(kept) < 1_000:
            kept.append(bytearray(b"x") * 4_000_000)
            time.sleep(0.1)
    threading.Thread(target=leak, daemon=True).start()
""",
    ),
}


def spoilt_code(folder: Path, fault: str) -> Path:
    """Copy the package into an empty folder, spoil it, and return the folder.

    Parameters
    ----------
    folder : Path
    fault : str
        A key of FAULTS.
    """
    package = Path(v13.__file__).resolve().parent
    shutil.copytree(package, folder / "v13", ignore=shutil.ignore_patterns("*.pyc"))
    store.write_text(folder / "sitecustomize.py", _HEAD.format(name=FAULTS[fault][0]) + FAULTS[fault][1])
    return folder
