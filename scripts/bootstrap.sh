#!/usr/bin/env bash
# Make .venv from requirements.lock and put the project into it, editable. Does nothing where that is done already.
# PYTHON=/path/to/python chooses the interpreter. Runs on bash 3.2 (macOS); uses uv where it is installed, else pip.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv
STAMP=$VENV/.bootstrapped

say() { printf '%s\n' "bootstrap: $*" >&2; }

# Everything the outcome depends on. The place counts too: scripts in a virtual environment hold absolute paths.
inputs() {
    pwd -P
    cat requirements.lock pyproject.toml scripts/bootstrap.sh
}

is_new_enough() {
    "$1" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

version_of() {
    "$1" --version 2>/dev/null || echo "none called $1 that runs"
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_new_enough "$PYTHON" && command -v "$PYTHON" && return
        say "PYTHON=$PYTHON: expected Python 3.11 or newer; found $(version_of "$PYTHON")"
        return 1
    fi
    # A name may be there and not run (shims of version managers), so each candidate is tried.
    for name in python3.11 python3.12 python3.13 python3.14 python3; do
        if command -v "$name" >/dev/null && is_new_enough "$name"; then
            command -v "$name"
            return
        fi
    done
    say "expected Python 3.11 or newer; found $(version_of python3)"
    say "install it (Debian, Ubuntu: apt-get install python3 python3-venv; macOS: brew install python@3.11)"
    say "or name one: PYTHON=/path/to/python make test"
    return 1
}

make_venv_with_pip() {
    python=$1
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        # Debian ships this part of Python in a package of its own.
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        package=python$version-venv
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            say "installing $package"
            apt-get update -qq
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null
        else
            say "this Python cannot make virtual environments; run: sudo apt-get install $package"
            return 1
        fi
    fi
    "$python" -m venv "$VENV"
}

if [ -x "$VENV/bin/python" ] && [ -f "$STAMP" ] && inputs | cmp -s - "$STAMP"; then
    exit 0
fi

has_uv=no
if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then
    has_uv=yes
fi

# Keep an environment that works and was made here; anything else is made anew.
if [ -x "$VENV/bin/python" ] && is_new_enough "$VENV/bin/python" &&
    { [ ! -f "$STAMP" ] || [ "$(head -n 1 "$STAMP")" = "$(pwd -P)" ]; }; then
    say "bringing $VENV up to date"
else
    python=$(find_python)
    say "making $VENV with $python ($(version_of "$python"))"
    rm -rf "$VENV"
    if [ "$has_uv" = yes ]; then
        uv venv --quiet --python "$python" "$VENV"
    else
        make_venv_with_pip "$python"
    fi
fi
pwd -P >"$STAMP" # from here on, until all is done, only the place holds

# With --require-hashes nothing gets in that the lock does not name, whatever index this machine uses.
if [ "$has_uv" = yes ]; then
    say "installing requirements.lock with uv"
    uv pip install --quiet --python "$VENV/bin/python" --require-hashes --compile-bytecode -r requirements.lock
    uv pip install --quiet --python "$VENV/bin/python" --no-deps --no-build-isolation --editable .
else
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        "$VENV/bin/python" -m ensurepip >/dev/null # made by uv, which puts no pip in
    fi
    say "installing requirements.lock with pip (a minute or two; uv is faster)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
fi

inputs >"$STAMP.new"
mv "$STAMP.new" "$STAMP"
say "done"
