"""The system figures P1–P14, O1–O3, K1–K4 and D1–D3: a gateway, a fleet, a floor, a peer on one machine, in one run."""
