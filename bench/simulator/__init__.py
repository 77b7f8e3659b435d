"""A fleet of any size by calculation: what a machine and three NATS servers were measured to do, carried on to as many
nodes and devices as one likes. No sockets, no clock; the same parameters give the same numbers.
"""
