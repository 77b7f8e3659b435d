"""Reaching the card in a terminal: secured packets, short messages to it, proactive commands, CAT_TP (E8); bytes
and state machines alone, and must never do input or output of its own: sim/ alone, which no gateway uses, has a
socket."""
