"""What can go wrong, told by who has to do something about it.

Every error carries a plain message and, where one exists, the remedy. `exit_code` is what a
command ends with when the error reaches it; the codes are those of sysexits.h where one fits.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes that users' scripts and the systemd unit rely on."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    MODEL_UNAVAILABLE = 69
    CANNOT_WRITE = 73
    ALREADY_RUNNING = 75
    NO_PERMISSION = 77
    BAD_CONFIG = 78
    INTERRUPTED = 130


class ScribedError(Exception):
    """Base of all our errors: what happened, and what to do about it.

    Attributes:
        remedy: one sentence telling a person what to do, or an empty string.
        exit_code: what a command ends with when this error reaches it.
    """

    exit_code = ExitCode.SOME_FAILED

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        """Return the message with the remedy behind it, on one line."""
        return f"{self.what} {self.remedy}".rstrip()


class JobError(ScribedError):
    """This recording cannot be transcribed, however often it is tried: it moves to failed."""


class TransientError(ScribedError):
    """Something outside the recording is in the way: tried again later, no attempt charged."""

    exit_code = ExitCode.CANNOT_WRITE


class CannotWriteError(ScribedError):
    """A command cannot write its output: the name is taken, or the disk or the standard output refuses it."""

    exit_code = ExitCode.CANNOT_WRITE


class ChangedError(ScribedError):
    """The recording changed while it was being transcribed; it is transcribed again, without counting an attempt."""


class StoppedError(ScribedError):
    """The work was asked to stop, by a shutdown or a cancel; nothing is wrong."""

    exit_code = ExitCode.INTERRUPTED


class EngineUnavailableError(ScribedError):
    """The model or the GPU is missing, broken, or does not fit."""

    exit_code = ExitCode.MODEL_UNAVAILABLE


class EngineLostError(ScribedError):
    """The resident model cannot go on (a dead GPU context); only a new process can help."""

    exit_code = ExitCode.MODEL_UNAVAILABLE


class AlreadyRunningError(ScribedError):
    """Another instance holds this state folder or inbox."""

    exit_code = ExitCode.ALREADY_RUNNING


class NoPermissionError(ScribedError):
    """This user has no permission to read or write a folder."""

    exit_code = ExitCode.NO_PERMISSION


class UsageError(ScribedError):
    """A command was called with words that make no sense."""

    exit_code = ExitCode.USAGE


class NewerVersionError(ScribedError):
    """A file in the state folder was written by a newer version; it is left untouched."""

    exit_code = ExitCode.BAD_CONFIG


class ConfigError(ScribedError):
    """The configuration is wrong; `faults` has every fault, one line each."""

    exit_code = ExitCode.BAD_CONFIG

    def __init__(self, what: str, faults: tuple[str, ...] = (), remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.faults = faults

    def __str__(self) -> str:
        """Return the message, then each fault on its own line."""
        return "\n".join([super().__str__(), *(f"  {fault}" for fault in self.faults)])
