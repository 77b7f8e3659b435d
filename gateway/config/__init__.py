"""Configuration: one dataclass a section, read from TOML, environment and flags; must never be read as a global."""

from gateway.config.load import InvalidConfig, load
from gateway.config.sections import Config

__all__ = ["Config", "InvalidConfig", "load"]
