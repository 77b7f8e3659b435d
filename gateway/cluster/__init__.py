"""A fleet of gateways on NATS: what nodes say to each other, whose the partitions are, journals as streams."""
