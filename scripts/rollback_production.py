#!/usr/bin/env python3
"""The deployment guide's rollback script: `v13 rollback`, with the same options."""

import sys

from v13.cli import main

if __name__ == "__main__":
    sys.exit(main(["rollback", *sys.argv[1:]]))
