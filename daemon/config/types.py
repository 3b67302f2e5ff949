"""The types of single values.

A validator raises ValueError with what is expected ("an absolute path, ..."); `daemon.config.wording`
puts the key, its line and the value before it. A message that begins with "did you mean" or "must" is
shown as it is.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict, ValidationInfo, WithJsonSchema

from daemon.configfile import DEMO_MODEL, clip
from daemon.documents import FORMATS
from daemon.text import LANGUAGES
from daemon.text.corrections import NAMED_SETS, TIMEOUT_S, Correction, find_regex_fault

if TYPE_CHECKING:
    from collections.abc import Callable

_MIN_HIGHPASS_HZ: Final = 10.0
_MAX_HIGHPASS_HZ: Final = 1000.0
# No text of a setting needs these, and a path with them cannot even be looked up.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def _to_path(value: object, info: ValidationInfo) -> Path:
    """Return an absolute path; a relative one starts at the folder of the configuration file."""
    if not isinstance(value, str | Path) or not str(value).strip():
        raise ValueError("a path in quotes, such as '/srv/scribed/inbox'")
    if isinstance(value, str) and _CONTROL.search(value):
        raise ValueError("a path without control characters")
    if str(value).startswith("~"):
        raise ValueError("an absolute path (~ is not expanded)")
    base: Path | None = (info.context or {}).get("base")
    path = Path(value) if base is None else base / value
    if not path.is_absolute():
        raise ValueError("an absolute path, one that starts with /")
    return path


def _to_model_path(value: object, info: ValidationInfo) -> Path:
    """Return an absolute path, or the word `demo` as it is."""
    return Path(DEMO_MODEL) if value in (DEMO_MODEL, Path(DEMO_MODEL)) else _to_path(value, info)


def _to_speakers(value: object, info: ValidationInfo) -> Path:
    """Return an absolute path, or the word `draft` as it is."""
    return Path("draft") if value in ("draft", Path("draft")) else _to_path(value, info)


def _to_metrics_path(value: object, info: ValidationInfo) -> Path:
    """Return an absolute path of a file that the collector reads."""
    path = _to_path(value, info)
    if path.suffix != ".prom":
        raise ValueError("a path that ends in .prom (the collector skips all others)")
    return path


def _to_language(value: object) -> str:
    """Return "auto" or the model's name of a language, from its name or code in any case."""
    names = {"auto": "auto", **LANGUAGES} | {name.casefold(): name for name in LANGUAGES.values()}
    word = value.strip().casefold() if isinstance(value, str) else ""
    if word in names:
        return names[word]
    if close := difflib.get_close_matches(word, names, n=1):
        raise ValueError(f"did you mean {names[close[0]]}? (or use auto)")
    listed = ", ".join(f"{name} ({code})" for code, name in LANGUAGES.items())
    raise ValueError(f"auto, or one of the model's languages: {listed}")


def _check_highpass(frequency_hz: float) -> float:
    if frequency_hz != 0 and not _MIN_HIGHPASS_HZ <= frequency_hz <= _MAX_HIGHPASS_HZ:
        raise ValueError(f"0 (no filter), or a number from {_MIN_HIGHPASS_HZ:g} to {_MAX_HIGHPASS_HZ:g}")
    return frequency_hz


def _check_words(text: str) -> str:
    words = text.strip()
    if not words or _CONTROL.search(words):
        raise ValueError("must not be empty or contain control characters")
    return words


def _check_argument(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("must not contain control characters")
    return text


def _check_program(words: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    """Check a command: its program is a path, made absolute here, or the name of an installed program."""
    program, *arguments = words
    if not program.strip():
        raise ValueError("must begin with a program")
    return (str(_to_path(program, info)) if "/" in program else program, *arguments)


def _check_unique(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each entry only once")
    return values


def _to_format(value: object) -> str:
    if value not in FORMATS:
        raise ValueError(f"one of {', '.join(FORMATS)}")
    return str(value)


def _to_correction(value: object) -> str | Correction:
    """Return the name of a built-in set, or a rule whose example comes out as expected."""
    if isinstance(value, Correction) or (isinstance(value, str) and value in NAMED_SETS):
        return value
    if not isinstance(value, dict) or not {"find", "replace"} <= value.keys():
        raise ValueError(f"{', '.join(NAMED_SETS)}, or the keys find and replace")
    if unknown := [key for key in value if key not in _CORRECTION_KEYS]:
        raise ValueError(f"must not have the key {clip(unknown[0])}; valid keys: {', '.join(_CORRECTION_KEYS)}")
    is_regex = value.get("regex", False)
    if not isinstance(is_regex, bool):
        raise ValueError("must have true or false for regex")  # noqa: TRY004  # pydantic expects ValueError
    texts = {key: text for key, text in value.items() if key != "regex"}
    for key, text in texts.items():
        _check_correction_text(key, text)
    if ("example" in texts) != ("expect" in texts):
        raise ValueError("must have both example and expect, or neither")
    if is_regex and (fault := find_regex_fault(texts["find"], texts["replace"])):
        raise ValueError(f"must have a regular expression in find and its groups in replace: {clip(fault)}")
    rule = Correction(texts["find"], texts["replace"], is_regex)
    if "example" in texts:
        _check_example(rule, texts["example"], texts["expect"])
    return rule


def _check_correction_text(key: str, text: object) -> None:
    if not isinstance(text, str):
        raise ValueError(f"must have a text in quotes for {key}")  # noqa: TRY004  # pydantic expects ValueError
    if (key == "find" and not text) or len(text) > _MAX_CORRECTION_CHARS or _CONTROL.search(text):
        raise ValueError(f"must have up to {_MAX_CORRECTION_CHARS} characters for {key}, no control characters")


def _check_example(rule: Correction, example: str, expect: str) -> None:
    """Raise ValueError where a rule does not do what its example says."""
    try:
        given = rule.apply(example)
    except TimeoutError:
        raise ValueError(f"must be a faster regular expression: its example takes more than {TIMEOUT_S} s") from None
    except OverflowError:
        raise ValueError("must not make its example many times as long") from None
    if given != expect:
        raise ValueError(f"must turn its example into '{clip(expect)}', but gives '{clip(given)}'")


def _matching(pattern: str, expected: str) -> Callable[[object], str]:
    """Return a validator of a whole text; `expected` says in words what matches."""

    def check(value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(expected)
        return value

    return check


_CORRECTION_KEYS: Final = ("find", "replace", "regex", "example", "expect")
_MAX_CORRECTION_CHARS: Final = 500
_CORRECTION_TEXT: Final = {"type": "string", "maxLength": _MAX_CORRECTION_CHARS}
_CORRECTION_SCHEMA: Final = {
    "anyOf": [
        {"enum": list(NAMED_SETS)},
        {
            "type": "object",
            "properties": {
                "find": _CORRECTION_TEXT | {"minLength": 1},
                "replace": _CORRECTION_TEXT,
                "regex": {"type": "boolean"},
                "example": _CORRECTION_TEXT,
                "expect": _CORRECTION_TEXT,
            },
            "required": ["find", "replace"],
            "additionalProperties": False,
        },
    ]
}
_PATH_SCHEMA: Final = WithJsonSchema({"type": "string", "minLength": 1})
_DEVICE: Final = r"auto|all|cpu|cuda(:[0-9]{1,2})?"
_MODE: Final = r"0?6[0246]{2}"
_ADDRESS: Final = r"[^\s:/]+:[0-9]{1,5}"

FullPath = Annotated[Path, BeforeValidator(_to_path), _PATH_SCHEMA]
ModelPath = Annotated[Path, BeforeValidator(_to_model_path), _PATH_SCHEMA]
SpeakersPath = Annotated[Path, BeforeValidator(_to_speakers), _PATH_SCHEMA]
MetricsPath = Annotated[Path, BeforeValidator(_to_metrics_path), _PATH_SCHEMA]
Language = Annotated[
    str, BeforeValidator(_to_language), WithJsonSchema({"enum": ["auto", *LANGUAGES.values(), *LANGUAGES]})
]
Words = Annotated[str, Field(max_length=200), AfterValidator(_check_words)]
Format = Annotated[str, BeforeValidator(_to_format), WithJsonSchema({"enum": list(FORMATS)})]
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
    WithJsonSchema({"type": "string", "pattern": "^(auto|cpu|cuda(:[0-9]{1,2})?)$"}),
]
Mode = Annotated[
    str,
    BeforeValidator(
        _matching(_MODE, "an octal mode in quotes, such as '0660': read and write for the owner, nothing executable")
    ),
    WithJsonSchema({"type": "string", "pattern": f"^{_MODE}$"}),
]
Address = Annotated[str, BeforeValidator(_matching(_ADDRESS, "HOST:PORT"))]
Track = Literal["auto", "all"] | Annotated[int, Field(ge=1, le=1000)]
SpeakerCount = Literal["off", "auto"] | Annotated[int, Field(ge=1, le=100)]
# YAML has lists where we hold tuples; nothing else is converted.
WordList = Annotated[tuple[Words, ...], Strict(strict=False), Field(max_length=1000)]
Argument = Annotated[str, Field(max_length=4000), AfterValidator(_check_argument)]
CommandLine = Annotated[
    tuple[Argument, ...], Strict(strict=False), Field(min_length=1, max_length=100), AfterValidator(_check_program)
]
FormatList = Annotated[tuple[Format, ...], Strict(strict=False), Field(min_length=1), AfterValidator(_check_unique)]
CorrectionEntry = Annotated[Any, BeforeValidator(_to_correction), WithJsonSchema(_CORRECTION_SCHEMA)]
CorrectionList = Annotated[tuple[CorrectionEntry, ...], Strict(strict=False), Field(max_length=1000)]
