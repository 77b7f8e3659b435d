"""Compiled load generator and floors: built from load/ and bench/floor/ by setup.py; the gateway itself never imports it."""
