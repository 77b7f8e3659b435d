"""Compiled load generator and floors, built from load/ and bench/floor/; the gateway itself never imports them."""
