"""The runner: a live or replayed feed through the signed-off detector, read-only, into event log and metrics."""
