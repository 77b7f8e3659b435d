"""The system figures P1–P13: one gateway process, a fleet, a floor and a peer on one machine, in one run."""
