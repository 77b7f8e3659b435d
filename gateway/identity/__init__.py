"""Opaque ids that stand for subscribers of an operator's network (C1–C7, C12, C15)."""

from gateway.identity.allocator import Allocator
from gateway.identity.hosts import Hosts
from gateway.identity.identity import Identity
from gateway.identity.resolver import Resolver

__all__ = ["Allocator", "Hosts", "Identity", "Resolver"]
