"""The daemon: put the parts together, run the loop, stop in order."""
