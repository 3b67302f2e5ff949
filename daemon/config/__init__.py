"""The configuration: its keys, reading it, and reporting all faults at once.

`configfile` finds and parses the file.
"""

from daemon.config.changes import change
from daemon.config.reading import load, reload
from daemon.config.recording import BrokenSettings, RecordingSettings, find_language, read_folder_settings
from daemon.config.schema import (
    Config,
    Folders,
    Hooks,
    Logging,
    Metrics,
    ModelSettings,
    Output,
    Preprocess,
    RetentionSettings,
    Retry,
    SegmentSettings,
    Transcribe,
    Watch,
    json_schema,
)
from daemon.config.settings import Settings
from daemon.configfile import FOLDER_SETTINGS_NAME
from daemon.text import LANGUAGES

__all__ = [
    "FOLDER_SETTINGS_NAME",
    "LANGUAGES",
    "BrokenSettings",
    "Config",
    "Folders",
    "Hooks",
    "Logging",
    "Metrics",
    "ModelSettings",
    "Output",
    "Preprocess",
    "RecordingSettings",
    "RetentionSettings",
    "Retry",
    "SegmentSettings",
    "Settings",
    "Transcribe",
    "Watch",
    "change",
    "find_language",
    "json_schema",
    "load",
    "read_folder_settings",
    "reload",
]
