"""DStreams you can put in production from Python."""

__version__ = "0.1.0"
