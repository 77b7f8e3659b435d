"""The system figures P1–P14, O1–O3 and D1: one gateway process, a fleet, a floor, a peer on one machine, in one run."""
