"""`python -m gateway.cli` is the same as `heliograph`."""

from gateway.cli import main

main()
