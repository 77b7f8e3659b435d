"""The operator's routes to cards, and the apps' to what is brought to them (E1 to E8)."""
