"""Device triggering: the network wakes a terminal in its signalling and hands it a few bytes (C10)."""
