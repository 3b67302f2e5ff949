"""Every key that can be set, its type, its bounds and its default.

A validator of ours raises ValueError with nothing but what belongs there ("a full path, ..."); what
is wrong with the value, its key and its line are put before it by `daemon.config.wording`.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    WithJsonSchema,
)

from daemon.configfile import STATE_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable

# Promised by the contract and not built yet: a key (any value but its default is refused) or one
# of its choices ("key: choice"). Who builds one deletes its line here.
LATER = frozenset(
    {
        "hooks.delivered",
        "model.aligner",
        "output.formats: html",
        "output.formats: md",
        "output.listening_copy",
        "transcribe.chinese_script",
        "transcribe.corrections",
    }
)

# The languages of Qwen3-ASR by their codes: LANGUAGE_CODE_TO_NAME of transformers' processor.
LANGUAGES = {
    "ar": "Arabic",
    "yue": "Cantonese",
    "zh": "Chinese",
    "cs": "Czech",
    "da": "Danish",
    "nl": "Dutch",
    "en": "English",
    "fil": "Filipino",
    "fi": "Finnish",
    "fr": "French",
    "de": "German",
    "el": "Greek",
    "hi": "Hindi",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "mk": "Macedonian",
    "ms": "Malay",
    "fa": "Persian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "es": "Spanish",
    "sv": "Swedish",
    "th": "Thai",
    "tr": "Turkish",
    "vi": "Vietnamese",
}

DEMO_MODEL = Path("demo")

_MIN_HIGHPASS_HZ = 10.0
_MAX_HIGHPASS_HZ = 1000.0
# No text of a setting has a use for these, and a path with them cannot even be looked up.
_UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def _to_path(value: object, info: ValidationInfo) -> Path:
    """Return an absolute path; a relative one starts at the folder of the configuration file."""
    if not isinstance(value, str | Path) or not str(value).strip():
        raise ValueError("a path in quotes, such as '/srv/scribed/inbox'")
    if isinstance(value, str) and _UNUSABLE.search(value):
        raise ValueError("a path without control characters")
    if str(value).startswith("~"):
        raise ValueError("the full path: ~ is another folder for each user")
    base: Path | None = (info.context or {}).get("base")
    path = Path(value) if base is None else base / value
    if not path.is_absolute():
        raise ValueError("a full path, one that starts with /")
    return path


def _to_model_path(value: object, info: ValidationInfo) -> Path:
    """Return an absolute path, or the word `demo` as it is."""
    return DEMO_MODEL if value in ("demo", DEMO_MODEL) else _to_path(value, info)


def _to_metrics_path(value: object, info: ValidationInfo) -> Path:
    """Return an absolute path of a file that the collector looks at."""
    path = _to_path(value, info)
    if path.suffix != ".prom":
        raise ValueError("a path that ends in .prom: the collector passes over all others")
    return path


def _to_language(value: object) -> str:
    """Return "auto" or the model's name of a language, from its name or code in any case."""
    names = {"auto": "auto", **LANGUAGES} | {name.casefold(): name for name in LANGUAGES.values()}
    word = value.strip().casefold() if isinstance(value, str) else ""
    if word in names:
        return names[word]
    if close := difflib.get_close_matches(word, names, n=1):
        raise ValueError(f"{names[close[0]]} if that is meant, or auto")
    listed = ", ".join(f"{name} ({code})" for code, name in LANGUAGES.items())
    raise ValueError(f"auto, or one of the model's languages: {listed}")


def _check_highpass(frequency_hz: float) -> float:
    if frequency_hz != 0 and not _MIN_HIGHPASS_HZ <= frequency_hz <= _MAX_HIGHPASS_HZ:
        raise ValueError(f"0 (no filter), or a number from {_MIN_HIGHPASS_HZ:g} to {_MAX_HIGHPASS_HZ:g}")
    return frequency_hz


def _check_words(text: str) -> str:
    words = text.strip()
    if not words or _UNUSABLE.search(words):
        raise ValueError("words without control characters")
    return words


def _check_unique(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each one once")
    return values


def _matching(pattern: str, expected: str) -> Callable[[object], str]:
    """Return a check that a whole text matches; `expected` says in words what does."""

    def check(value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(expected)
        return value

    return check


_PATH_SCHEMA = WithJsonSchema({"type": "string", "minLength": 1})
_DEVICE = r"auto|cpu|cuda(:[0-9]{1,2})?"
_MODE = r"0?6[0246]{2}"

FullPath = Annotated[Path, BeforeValidator(_to_path), _PATH_SCHEMA]
ModelPath = Annotated[Path, BeforeValidator(_to_model_path), _PATH_SCHEMA]
MetricsPath = Annotated[Path, BeforeValidator(_to_metrics_path), _PATH_SCHEMA]
Language = Annotated[
    str, BeforeValidator(_to_language), WithJsonSchema({"enum": ["auto", *LANGUAGES.values(), *LANGUAGES]})
]
Words = Annotated[str, Field(max_length=200), AfterValidator(_check_words)]
Format = Literal["txt", "json", "srt", "vtt", "md", "html"]
HighpassHz = Annotated[
    float,
    AfterValidator(_check_highpass),
    WithJsonSchema(
        {"anyOf": [{"const": 0}, {"type": "number", "minimum": _MIN_HIGHPASS_HZ, "maximum": _MAX_HIGHPASS_HZ}]}
    ),
]
Device = Annotated[
    str,
    BeforeValidator(_matching(_DEVICE, "auto, cuda, cuda:N with the number of a GPU, or cpu")),
    WithJsonSchema({"type": "string", "pattern": f"^({_DEVICE})$"}),
]
Mode = Annotated[
    str,
    BeforeValidator(
        _matching(_MODE, "an octal mode in quotes, such as '0660': read and write for the owner, nothing executable")
    ),
    WithJsonSchema({"type": "string", "pattern": f"^{_MODE}$"}),
]
# YAML has lists where we hold tuples; nothing else is converted.
WordList = Annotated[tuple[Words, ...], Strict(strict=False), Field(max_length=1000)]
FormatList = Annotated[tuple[Format, ...], Strict(strict=False), Field(min_length=1), AfterValidator(_check_unique)]


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, nothing converted (`"5"` is not a number)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class Folders(Section):
    """The folders; none may lie inside another."""

    inbox: FullPath = Field(default=Path("/srv/scribed/inbox"), description="recordings are dropped here")
    outbox: FullPath = Field(default=Path("/srv/scribed/outbox"), description="transcripts appear here")
    processed: FullPath = Field(
        default=Path("/srv/scribed/processed"), description="the audio moves here when it is done"
    )
    failed: FullPath = Field(default=Path("/srv/scribed/failed"), description="or here, with the reason beside it")
    state: FullPath = Field(default=STATE_FOLDER, description="the daemon's memory of its jobs")
    cache: FullPath = Field(
        default=Path("/var/cache/scribed"), description="room for the sound that is being worked on"
    )


class Watch(Section):
    """How recordings are noticed."""

    mode: Literal["auto", "events", "poll"] = Field(default="auto", description="events wake the scan; poll only scans")
    settle_s: float = Field(
        default=5.0, ge=0.5, le=3600, description="seconds without a change until a recording is whole"
    )
    scan_s: float = Field(default=2.0, ge=0.2, le=3600, description="seconds between two scans of the inbox")
    recursive: bool = Field(default=True, description="look into sub-folders too")
    ignore: WordList = Field(default=(), description="globs on the path within the inbox which are left alone")
    unsupported: Literal["fail", "ignore"] = Field(
        default="fail", description="what happens to files that are no recordings"
    )


class Preprocess(Section):
    """What is done to the sound before the model hears it."""

    highpass_hz: HighpassHz = Field(default=80.0, description="lowest frequency that is kept, 0 keeps all")
    normalize: Literal["peak", "loudness", "off"] = Field(default="peak", description="how the level is set")
    peak_dbfs: float = Field(default=-3.0, ge=-30, le=0, description="highest level after normalising")
    max_duration_h: float = Field(default=24.0, gt=0, le=168, description="a longer recording is set aside")


class SegmentSettings(Section):
    """How a recording is cut into what the model hears at once."""

    max_chunk_s: float = Field(default=30.0, ge=5, le=300, description="longest piece the model hears at once")
    overlap_s: float = Field(default=5.0, ge=0, le=15, description="what two pieces share where nobody pauses")
    vad: Literal["silero", "energy", "off"] = Field(default="silero", description="what finds the pauses")


class ModelSettings(Section):
    """The speech model and where it runs."""

    path: ModelPath = Field(
        default=Path("/var/lib/scribed/models/Qwen3-ASR-1.7B-hf"),
        description="folder of the model, or demo for the tiny one that comes with scribed",
    )
    device: Device = Field(default="auto", description="auto is the GPU where the machine has one, else the CPU")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="number format of the weights"
    )
    slots: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto", description="pieces transcribed at the same time"
    )
    aligner: FullPath | None = Field(default=None, description="(later) folder of the model that times each word")


class Transcribe(Section):
    """What the model is told about the speech."""

    language: Language = Field(default="auto", description="auto detects it; or a name or code, such as English or en")
    hotwords: WordList = Field(default=(), description="names and terms to expect")
    chinese_script: Literal["as-is", "simplified", "traditional"] = Field(default="as-is", description="(later)")
    corrections: WordList = Field(default=(), description="(later)")

    @property
    def forced_language(self) -> str | None:
        """The model's name of the language it must write, or None where it detects it."""
        return None if self.language == "auto" else self.language


class Output(Section):
    """The documents in the outbox."""

    formats: FormatList = Field(default=("txt", "json"), description="which documents are written")
    timestamps: bool = Field(default=False, description="put the time before each paragraph of the txt")
    mirror_folders: bool = Field(default=True, description="make the inbox's sub-folders in the outbox too")
    listening_copy: Literal["mp3", "m4a", "opus"] | None = Field(default=None, description="(later)")
    status_file: Literal["full", "counts", "off"] = Field(default="full", description="what STATUS.txt tells")
    mode: Mode = Field(default="0660", description="file mode of the documents, in quotes")

    @property
    def mode_bits(self) -> int:
        """The file mode as a number, such as 0o660."""
        return int(self.mode, base=8)


class Retry(Section):
    """What happens when a recording fails."""

    max_attempts: int = Field(default=3, ge=1, le=20, description="attempts until a recording is set aside")
    backoff_s: float = Field(default=30.0, ge=0, le=3600, description="seconds until the second attempt")


class Retention(Section):
    """How long the audio is kept."""

    processed_days: int = Field(default=0, ge=0, le=36500, description="days after delivery; 0 keeps it for ever")
    failed_days: int = Field(default=0, ge=0, le=36500, description="days after it was set aside; 0 keeps it for ever")


class Logging(Section):
    """What is logged and where."""

    format: Literal["auto", "console", "json"] = Field(default="auto", description="auto is console on a terminal")
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="lowest level that is logged"
    )
    file: FullPath | None = Field(default=None, description="a log file besides the journal, as JSON lines")
    names: Literal["full", "hashed"] = Field(default="full", description="hashed hides the names of recordings")


class Metrics(Section):
    """Figures for a monitoring system."""

    textfile: MetricsPath | None = Field(default=None, description="file (.prom) for Prometheus' textfile collector")


class Hooks(Section):
    """Programs of yours that are run."""

    delivered: FullPath | None = Field(default=None, description="(later)")


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
    retention: Retention = Field(default_factory=Retention)
    logging: Logging = Field(default_factory=Logging)
    metrics: Metrics = Field(default_factory=Metrics)
    hooks: Hooks = Field(default_factory=Hooks)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the configuration file, for editors.

    What is not built yet has its default as its only value.
    """
    schema = Config.model_json_schema()
    for entry in sorted(LATER):
        name, _, choice = entry.partition(": ")
        section, key = name.split(".")
        properties = schema["$defs"][schema["properties"][section]["$ref"].rpartition("/")[2]]["properties"]
        if choice:
            properties[key]["items"]["enum"].remove(choice)
        else:
            kept = {word: properties[key][word] for word in ("default", "description", "title")}
            properties[key] = {"const": kept["default"], **kept}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "scribed configuration"}
