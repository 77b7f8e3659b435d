"""Networks of IM aggregation as Debian, PyPI and npm have them, started on loopback, and other people on them: for the
tour and for the tests. Nothing of the gateway needs them."""
