"""Every key of the configuration: its type, its range, its default, and the one text that describes it.

`tools/write_config_docs.py` writes config.example.yaml and docs/configuration.md from here.
"""

# ruff: noqa: TC001  # pydantic needs the types at run time
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from daemon.config.types import (
    Address,
    CommandLine,
    CorrectionList,
    Device,
    FormatList,
    FullPath,
    HighpassHz,
    Language,
    MetricsPath,
    Mode,
    ModelPath,
    SpeakerCount,
    SpeakersPath,
    Track,
    WordList,
)
from daemon.configfile import STATE_FOLDER
from daemon.text.script import Script

# Keys and choices of the interface that are not implemented yet: a key of which every value but its
# default is refused, or "key: choice". To implement one, delete its entry here.
LATER: Final = frozenset(
    {
        "cluster.address",
        "cluster.tls_dir",
        "cluster.token_file",
        "model.aligner",
        "model.device: all",
        "model.events",
        "model.speakers",
        "output.sound_events",
        "transcribe.speakers",
    }
)


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, nothing converted (`"5"` is not a number)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class Folders(Section):
    """The folders. None may be inside another. Put the first four on one file system, so that moves are instant."""

    inbox: FullPath = Field(default=Path("/srv/scribed/inbox"), description="drop recordings here")
    outbox: FullPath = Field(default=Path("/srv/scribed/outbox"), description="transcripts appear here")
    processed: FullPath = Field(
        default=Path("/srv/scribed/processed"), description="the audio moves here after its transcript is delivered"
    )
    failed: FullPath = Field(
        default=Path("/srv/scribed/failed"), description="failed recordings move here, with a note that says why"
    )
    state: FullPath = Field(
        default=STATE_FOLDER, description="the journal of jobs, the status and the search index; on a local disk"
    )
    cache: FullPath = Field(
        default=Path("/var/cache/scribed"), description="decoded audio of recordings in progress; on a local disk"
    )


class Watch(Section):
    """How recordings are found."""

    mode: Literal["auto", "events", "poll"] = Field(
        default="auto",
        description="events: scan at once after a change; poll: only every scan_s; auto: poll on network shares",
    )
    settle_s: float = Field(
        default=5.0, ge=0.5, le=3600, description="seconds without a change before a recording counts as complete"
    )
    scan_s: float = Field(default=2.0, ge=0.2, le=3600, description="seconds between two scans of the inbox")
    recursive: bool = Field(default=True, description="scan sub-folders too")
    ignore: WordList = Field(
        default=(), description='paths within the inbox to ignore, as glob patterns such as ["drafts/*", "*.bak"]'
    )
    unsupported: Literal["fail", "ignore"] = Field(
        default="fail", description="files that are not audio or video: move them to failed, or leave them in the inbox"
    )


class Preprocess(Section):
    """What is done to the audio before the model hears it."""

    highpass_hz: HighpassHz = Field(
        default=80.0, description="remove rumble below this frequency: 10 to 1000, or 0 for no filter"
    )
    normalize: Literal["peak", "loudness", "off"] = Field(
        default="peak", description="set the highest level (peak) or a loudness of -23 LUFS"
    )
    peak_dbfs: float = Field(default=-3.0, ge=-30, le=0, description="the highest level with normalize: peak, in dBFS")
    leveling: Literal["auto", "off", "on"] = Field(
        default="auto",
        description="bring quiet talkers up, by at most 26 dB; auto: only where talkers differ by 10 dB or more",
    )
    max_duration_h: float = Field(default=24.0, gt=0, le=168, description="longer recordings are moved to failed")


class SegmentSettings(Section):
    """How a recording is cut into chunks, each of which the model hears at once."""

    max_chunk_s: float = Field(default=30.0, ge=5, le=300, description="longest chunk, in seconds")
    overlap_s: float = Field(
        default=5.0,
        ge=0,
        le=15,
        description="overlap of two chunks where speech continues without a pause, less than half a chunk",
    )
    vad: Literal["silero", "energy", "off"] = Field(
        default="silero", description="what finds speech and pauses: silero is a model, energy goes by the level"
    )


class ModelSettings(Section):
    """The speech model and where it runs."""

    path: ModelPath = Field(
        default=Path("/var/lib/scribed/models/Qwen3-ASR-1.7B-hf"),
        description="folder of the model, or demo for the small one in the package",
    )
    device: Device = Field(
        default="auto", description="auto, cuda, cuda:N or cpu; auto is the GPU if there is one, else the CPU"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="number format of the weights; auto depends on the device"
    )
    slots: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto", description="chunks transcribed at the same time"
    )
    idle_unload_min: float = Field(
        default=0,
        ge=0,
        le=10080,
        description="minutes without work until the model is unloaded; the next recording loads it again; 0 = never",
    )
    aligner: ModelPath | None = Field(default=None, description="folder of the model for word timestamps, or demo")
    speakers: SpeakersPath = Field(default=Path("draft"), description="folder of the speaker model, or draft")
    events: FullPath | None = Field(default=None, description="folder of the model for sound events")


class Transcribe(Section):
    """Language and hotwords for the model, and what is done with its words."""

    language: Language = Field(default="auto", description="auto to detect it, or a name or code such as English or en")
    hotwords: WordList = Field(
        default=(), description='names and terms to expect, such as ["Müller-Lüdenscheidt", "stent"]'
    )
    channels: Literal["auto", "mix", "split"] = Field(
        default="auto", description="mix the channels, or transcribe each separately"
    )
    channel_names: WordList = Field(default=(), description="names of the channels in the documents, in order")
    tracks: Track = Field(default="auto", description="audio tracks to transcribe: auto, all, or a number from 1")
    language_from_name: bool = Field(
        default=True, description="take the language from names such as talk.yue.m4a: a code right before the ending"
    )
    speakers: SpeakerCount = Field(default="off", description="label speakers: off, auto, or how many there are")
    chinese_script: Script = Field(default="as-is", description="characters in which Chinese and Cantonese are written")
    corrections: CorrectionList = Field(
        default=(), description="replacements in the text: zh-common, or {find, replace, regex, example, expect}"
    )

    @property
    def forced_language(self) -> str | None:
        """The model's name of the language it must write, or None to detect it."""
        return None if self.language == "auto" else self.language


class Output(Section):
    """The documents in the outbox."""

    formats: FormatList = Field(default=("txt", "json"), description="documents to write")
    timestamps: bool = Field(default=False, description="begin each paragraph of the txt, md and docx with its time")
    sound_events: bool = Field(default=False, description="show sound events in the documents")
    mirror_folders: bool = Field(default=True, description="create the sub-folders of the inbox in the outbox too")
    listening_copy: Literal["mp3", "m4a", "opus"] | None = Field(
        default=None, description="format of a small copy of the cleaned audio next to the documents; needs ffmpeg"
    )
    clips: bool = Field(
        default=False,
        description="embed the audio of flagged and missing passages in the html page, to play without the recording",
    )
    status_file: Literal["full", "counts", "off"] = Field(
        default="full", description="what outbox/STATUS.txt shows; counts: no names; off: the file is not written"
    )
    mode: Mode = Field(default="0660", description="file mode of the documents, in quotes")

    @property
    def mode_bits(self) -> int:
        """The file mode as a number, such as 0o660."""
        return int(self.mode, base=8)


class Retry(Section):
    """What happens when a recording fails."""

    max_attempts: int = Field(default=3, ge=1, le=20, description="attempts before a recording is moved to failed")
    backoff_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="seconds before the second attempt; doubled for each later one, up to 15 minutes",
    )


class RetentionSettings(Section):
    """How long audio is kept, counted from its recorded outcome. Files without a record are never deleted."""

    processed_days: int = Field(
        default=0, ge=0, le=36500, description="days until audio in processed is deleted; 0 = keep forever"
    )
    failed_days: int = Field(
        default=0, ge=0, le=36500, description="days until audio in failed is deleted, with its note; 0 = keep forever"
    )


class Logging(Section):
    """What is logged, and where."""

    format: Literal["auto", "console", "json"] = Field(
        default="auto", description="console: lines for people; json: JSON lines; auto is the same as console"
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="lowest level that is logged"
    )
    file: FullPath | None = Field(
        default=None,
        description="a log file in addition to the systemd journal: JSON lines, in ten files of at most 10 MB",
    )
    names: Literal["full", "hashed"] = Field(
        default="full", description="hashed hides the names of recordings in logs, STATUS.txt and `systemctl status`"
    )


class Metrics(Section):
    """Figures for a monitoring system."""

    textfile: MetricsPath | None = Field(
        default=None, description="file for Prometheus' textfile collector, ending in .prom"
    )


class Search(Section):
    """The search index."""

    enabled: bool = Field(
        default=False, description="keep the words of delivered transcripts in the state folder, for `scribed search`"
    )


class Hooks(Section):
    """A local program that scribed runs."""

    delivered: CommandLine | None = Field(
        default=None,
        description=(
            "program and arguments to run after each delivery, such as [/usr/local/bin/file-it, --new]; without a"
            " shell; the path of the json document is added as the last argument"
        ),
    )
    timeout_s: float = Field(
        default=60.0, ge=1, le=3600, description="seconds after which the program and its process group are killed"
    )


class Cluster(Section):
    """Engines on other machines."""

    address: Address | None = Field(default=None, description="HOST:PORT of the Ray cluster")
    token_file: FullPath = Field(default=Path("/etc/scribed/cluster.token"), description="file with the shared token")
    tls_dir: FullPath = Field(default=Path("/etc/scribed/tls"), description="folder of the certificates")


class Config(Section):
    """The whole configuration."""

    folders: Folders = Field(default_factory=Folders)
    watch: Watch = Field(default_factory=Watch)
    preprocess: Preprocess = Field(default_factory=Preprocess)
    segment: SegmentSettings = Field(default_factory=SegmentSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    transcribe: Transcribe = Field(default_factory=Transcribe)
    output: Output = Field(default_factory=Output)
    retry: Retry = Field(default_factory=Retry)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    logging: Logging = Field(default_factory=Logging)
    metrics: Metrics = Field(default_factory=Metrics)
    search: Search = Field(default_factory=Search)
    hooks: Hooks = Field(default_factory=Hooks)
    cluster: Cluster = Field(default_factory=Cluster)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the configuration file, for editors.

    A key that is not implemented yet allows its default only.
    """
    schema = Config.model_json_schema()
    for name in sorted(entry for entry in LATER if ": " not in entry):
        section, key = name.split(".")
        properties = find_section(schema, section)["properties"]
        kept = {word: properties[key][word] for word in ("default", "description", "title")}
        properties[key] = {"const": kept["default"], **kept}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "scribed configuration"}


def find_section(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the part of the JSON Schema that describes a section."""
    section: dict[str, Any] = schema["$defs"][schema["properties"][name]["$ref"].rpartition("/")[2]]
    return section
