"""One changed setting, as `scribed eval --compare KEY=VALUE` tries it out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from daemon.config.reading import check, compare_lengths
from daemon.configfile import BrokenFileError, ConfigFault, clip, parse
from daemon.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from daemon.config.schema import Config

# The sections that change which words are written.
COMPARED: Final = ("preprocess", "segment", "model", "transcribe")


def change(config: Config, assignment: str) -> Config:
    """Return the configuration with one key changed.

    Args:
        config: the configuration as it is.
        assignment: SECTION.KEY=VALUE; the value is YAML, such as 0, off, or [stent, "Müller"].

    Raises:
        UsageError: it has another form, or the key does not change which words are written.
        ConfigError: the key or the value is wrong.
    """
    name, equals, value = assignment.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and key) or any(char in name for char in ":{}\n#"):
        raise UsageError(f"{clip(assignment)} is not a change.", "Write KEY=VALUE, such as preprocess.highpass_hz=0.")
    if section not in COMPARED:
        remedy = f"Choose a key of {', '.join(COMPARED)}."
        raise UsageError(f"{clip(name)} does not change which words are written.", remedy)
    try:
        document = parse(f"{section}:\n  {key}: {value}\n".encode(), has_aliases=False)
    except BrokenFileError:
        what = f"The value of {clip(assignment)} cannot be read."
        raise ConfigError(what, remedy="Write it as in config.example.yaml.") from None
    checked = check(document, base=None)
    if checked.faults:
        raise _wrong(assignment, checked.faults)
    old = getattr(config, section)
    new = old.model_copy(update={key: getattr(getattr(checked.config, section), key)})
    changed = config.model_copy(update={section: new})
    conflicts = [ConfigFault(keys[0], None, what, remedy) for keys, what, remedy in compare_lengths(changed)]
    if conflicts:
        raise _wrong(assignment, tuple(conflicts))
    return changed


def _wrong(assignment: str, faults: tuple[ConfigFault, ...]) -> ConfigError:
    lines = tuple(str(ConfigFault(fault.key, None, fault.what, fault.remedy)) for fault in faults)
    return ConfigError(f"--compare {clip(assignment)} cannot be used:", lines)
