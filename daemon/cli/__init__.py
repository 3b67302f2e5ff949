"""The commands. Nothing here imports what is slow to import before a command runs."""

import signal
import sys

# A SIGHUP ends a process that has no handler for it. `run` installs its handlers once the command line is parsed, and
# reads the configuration after that: until then a request to read it again can be ignored.
if sys.argv[1:2] == ["run"]:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
