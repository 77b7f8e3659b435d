"""The WAP push pager (C9): a link that the terminal opens, through a push proxy gateway or as short messages."""
