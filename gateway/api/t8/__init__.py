"""Device triggering as 3GPP defines it for application servers (T8, TS 29.122 clauses 4.4.6 and 5.7)."""
