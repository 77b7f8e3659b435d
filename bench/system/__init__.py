"""The system figures P1–P14 and O1–O3: one gateway process, a fleet, a floor and a peer on one machine, in one run."""
