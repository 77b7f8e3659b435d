"""Puts a node of a fleet together, where `cluster.url` is set: cores of partitions, and doors that lead to all."""
