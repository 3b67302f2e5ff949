"""What is wrong with a value and what belongs there, in plain words."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from daemon.configfile import Document, Fault, KeyPath, clip

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def explain(detail: ErrorDetails, document: Document, schema: dict[str, Any]) -> Fault:
    """Turn what pydantic found into a fault.

    Args:
        detail: one of `ValidationError.errors()`.
        document: where the value stands.
        schema: the JSON Schema of the configuration.
    """
    # Behind the key, pydantic also names the branch of a union: only an index into a list is ours.
    key: KeyPath = (*detail["loc"][:2], *(part for part in detail["loc"][2:] if isinstance(part, int)))
    line = document.find_line(key)
    if detail["type"] == "extra_forbidden":
        return Fault(key, line, "unknown key", _suggest(key, schema))
    what = f"{_show(detail['input'])} does not fit"
    if detail["type"] == "value_error":  # our own validators say what belongs there
        return Fault(key, line, what, f"write {detail['ctx']['error']}")
    place = _find_section(schema, str(key[0]))
    for part in key[1:]:
        place = place["items"] if isinstance(part, int) else place["properties"][part]
    return Fault(key, line, what, f"write {_describe(place)}")


def _find_section(schema: dict[str, Any], name: str) -> dict[str, Any]:
    section: dict[str, Any] = schema["$defs"][schema["properties"][name]["$ref"].rpartition("/")[2]]
    return section


def _show(value: object) -> str:
    """Return the value as a person would write it, with its kind where that may be what is wrong."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return "true" if value else "false"
        case str():
            return f"the text '{clip(value)}'"
        case int() | float():
            return f"the number {clip(str(value))}"
        case list():
            return "a list" if value else "an empty list"
        case _:
            return "a group of keys"


def _suggest(key: KeyPath, schema: dict[str, Any]) -> str:
    """Return what may have been meant by an unknown key."""
    known = {section: list(_find_section(schema, section)["properties"]) for section in schema["properties"]}
    word = str(key[-1])
    here = known[str(key[0])] if len(key) > 1 else list(known)
    elsewhere = {name: f"{section}.{name}" for section, names in known.items() for name in names}
    if close := difflib.get_close_matches(word, here, n=1):
        return f"did you mean {close[0]}?"
    if close := difflib.get_close_matches(word, elsewhere, n=1, cutoff=0.8):
        return f"did you mean {elsewhere[close[0]]}?"
    return f"what can stand here: {', '.join(here)}"


def _describe(schema: dict[str, Any]) -> str:
    """Return in words what a part of the JSON Schema allows."""
    match schema:
        case {"const": word}:
            words = str(word)
        case {"enum": choices}:
            words = f"one of {', '.join(choices)}"
        case {"anyOf": choices}:
            words = ", or ".join(_describe(choice) for choice in choices)
        case {"type": "array", "items": entries}:
            n_entries = f"up to {schema['maxItems']}" if "maxItems" in schema else f"at least {schema['minItems']}"
            words = f"a list of {n_entries}, each {_describe(entries)}"
        case {"type": "object", "properties": keys}:
            words = f"keys below it, such as {next(iter(keys))}"
        case {"type": "integer" | "number" as kind, "maximum": maximum}:
            is_open = "exclusiveMinimum" in schema
            lowest = f"above {schema['exclusiveMinimum']:g} and up" if is_open else f"from {schema['minimum']:g}"
            words = f"{'a whole number' if kind == 'integer' else 'a number'} {lowest} to {maximum:g}"
        case {"maxLength": length}:
            words = f"a text of up to {length} characters"
        case _:
            words = {"boolean": "true or false", "null": "null"}.get(schema.get("type", ""), "a text")
    return words
