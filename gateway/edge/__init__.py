"""The device door: reactors, logins, frames a control thread must answer; must never decide where a push goes."""

from gateway.edge.server import EdgeServer

__all__ = ["EdgeServer"]
