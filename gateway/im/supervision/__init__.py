"""Who is connected to which network, and when (D16): one task for each account that is to be; must never lose what an
account was told before it is in the user's log."""
