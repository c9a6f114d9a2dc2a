"""`python -m v13.cli`: the same as the `v13` command."""

from v13.cli import entry

entry()
