"""Heliograph: a push gateway."""

__version__ = "0.1.0"
