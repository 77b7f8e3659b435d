"""Compiled core: built from ext/ by setup.py; only gateway.edge and gateway.store import it."""
