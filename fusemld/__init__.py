"""fusemld: one daemon that runs FuseML workflows from a watched folder."""

__version__ = "0.1.0"
