"""The swarm: devices by the hundred thousand, and a publisher, over public doors only; no gateway ever needs it."""
