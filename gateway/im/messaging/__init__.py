"""Messages in and out (D2 to D5, D8, D10 to D15): into the user's log and to the devices, out to networks and to our
own users; what is accepted ends in a result."""
