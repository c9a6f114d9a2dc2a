"""Settings: the schema, the layered loader, and the fingerprint of what was loaded."""

from v13.config.loader import DEFAULT_ENV, ENV_VARIABLE, Loaded, find_root, fingerprint, load
from v13.config.schema import Config

__all__ = ["DEFAULT_ENV", "ENV_VARIABLE", "Config", "Loaded", "find_root", "fingerprint", "load"]
