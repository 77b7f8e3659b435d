"""What the gateway does for cards: calls them, learns what their terminals can, brings downloads to them (E1 to E8)."""
