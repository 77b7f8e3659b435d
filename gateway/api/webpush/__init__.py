"""The Web Push door (RFC 8030, 8291, 8292): pushes of unmodified Web Push libraries."""
