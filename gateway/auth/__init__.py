"""Who is asking: API keys of providers, the operator's key, devices at login; keeps no secret it could show again."""
