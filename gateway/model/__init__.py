"""The words of the house: notifications, registrations, outcomes, frames, ports and errors; touches no socket, store or clock."""
