"""Configuration: one dataclass a section, read from TOML, environment and flags; must never be read as a global."""
