"""Servers of the networks of IM aggregation, started on loopback, and other people on them with the networks' own
client libraries: for the tour and for the tests. Nothing of the gateway needs them."""
