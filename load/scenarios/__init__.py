"""What the load test's users do: devices over plain sockets, providers over HTTP, and the shape of a day."""
