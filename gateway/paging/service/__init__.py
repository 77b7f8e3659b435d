"""Inviting a terminal to start an app that does not run (C13)."""
