"""The daemon: build the parts, run the loop, stop in order."""

from daemon.service.loop import Service

__all__ = ["Service"]
