#!/usr/bin/env bash
# Install the peers `make bench` compares with (extra `bench` of pyproject.toml). They are no part of the lock: nothing
# but the benchmark imports them. What is pinned stays as it is.
set -euo pipefail
cd "$(dirname "$0")/.."

pins=$(mktemp)
trap 'rm -f "$pins"' EXIT
.venv/bin/python -c '
from importlib.metadata import distributions
for d in distributions():
    if d.metadata["Name"] != "v13":
        print(d.metadata["Name"] + "==" + d.version)
' >"$pins"
if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then
    uv pip install --quiet --python .venv/bin/python --constraint "$pins" --editable '.[bench]'
else
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint "$pins" --editable '.[bench]'
fi
