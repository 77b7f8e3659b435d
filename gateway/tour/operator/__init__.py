"""Servers of an operator's network, as Debian has them, started on loopback: for the tour and for the tests. Nothing of
the gateway needs them."""
