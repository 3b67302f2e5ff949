"""scribed: a local daemon which turns recordings dropped into a folder into transcripts in another."""

__version__ = "0.1.0"
