"""Runs a gateway as if it were of another version of what nodes say to each other: `another_version.py 2 python -m
gateway.cli serve …`."""

from __future__ import annotations

import sys

import gateway.model.cluster

if __name__ == "__main__":
    gateway.model.cluster.VERSION = int(sys.argv[1])
    from gateway.cli import main

    # behind it stands the command as it would have been without this
    sys.argv = ["heliograph", *sys.argv[sys.argv.index("gateway.cli") + 1 :]]
    main()
