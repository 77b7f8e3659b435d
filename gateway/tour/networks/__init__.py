"""Servers of other networks on loopback, and people on them with those networks' own client libraries: for the tour
and the tests of IM aggregation."""
