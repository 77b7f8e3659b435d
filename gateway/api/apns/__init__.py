"""The APNs-compatible door: pushes of unmodified libraries that speak to Apple's service."""
