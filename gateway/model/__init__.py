"""The words of the house: notifications, registrations, outcomes, frames, ports and errors.

Touches no socket, store or clock.
"""
