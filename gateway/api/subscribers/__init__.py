"""The operator's and the app servers' routes to opaque subscriber ids (C1–C5, C15)."""
