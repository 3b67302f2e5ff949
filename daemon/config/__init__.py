"""The configuration: what can be set, reading it from YAML, and telling every fault at once.

`configfile` finds and parses the file. A module is given its own section, never the whole.
"""

from daemon.config.reading import load, reload
from daemon.config.recording import FOLDER_SETTINGS_NAME, RecordingSettings, read_folder_settings
from daemon.config.schema import (
    LANGUAGES,
    Config,
    Folders,
    Hooks,
    Logging,
    Metrics,
    ModelSettings,
    Output,
    Preprocess,
    Retention,
    Retry,
    SegmentSettings,
    Transcribe,
    Watch,
    json_schema,
)
from daemon.config.settings import Settings

__all__ = [
    "FOLDER_SETTINGS_NAME",
    "LANGUAGES",
    "Config",
    "Folders",
    "Hooks",
    "Logging",
    "Metrics",
    "ModelSettings",
    "Output",
    "Preprocess",
    "RecordingSettings",
    "Retention",
    "Retry",
    "SegmentSettings",
    "Settings",
    "Transcribe",
    "Watch",
    "json_schema",
    "load",
    "read_folder_settings",
    "reload",
]
