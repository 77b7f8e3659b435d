"""Shows every clause on a running gateway, through its public doors only; must never reach inside it."""

from gateway.tour.walk import Row, Walk, walk

__all__ = ["Row", "Walk", "walk"]
