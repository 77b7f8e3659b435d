"""The IP pager (C11): who is on line and at which address, and a datagram to the terminal there."""
