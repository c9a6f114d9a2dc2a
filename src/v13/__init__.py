"""v13: research-to-production validation of a market divergence detector."""

__all__ = ["__version__"]

__version__ = "13.0.0"
