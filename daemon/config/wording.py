"""Faults of values in plain words: what is wrong, and what is expected."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from daemon.config.schema import find_section
from daemon.configfile import ConfigFault, Document, KeyPath, clip

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def explain(detail: ErrorDetails, document: Document, schema: dict[str, Any]) -> ConfigFault:
    """Turn an error of pydantic into a fault.

    Args:
        detail: one of `ValidationError.errors()`.
        document: the file.
        schema: the JSON Schema of the configuration.
    """
    # After the key, pydantic also names the branch of a union: only an index into a list is ours.
    key: KeyPath = (*detail["loc"][:2], *(part for part in detail["loc"][2:] if isinstance(part, int)))
    line = document.find_line(key)
    if detail["type"] == "extra_forbidden":
        return ConfigFault(key, line, "unknown key", _suggest(key, schema))
    what = f"invalid value {_show(detail['input'])}"
    if detail["type"] == "value_error":  # from our own validators, see daemon.config.types
        expected = str(detail["ctx"]["error"])
        is_sentence = expected.startswith(("did you mean", "must"))
        return ConfigFault(key, line, what, expected if is_sentence else f"expected {expected}")
    place = find_section(schema, str(key[0]))
    for part in key[1:]:
        if isinstance(part, int):  # an entry of a list, which may also be null
            place = next(branch["items"] for branch in (place, *place.get("anyOf", ())) if "items" in branch)
        else:
            place = place["properties"][part]
    return ConfigFault(key, line, what, f"expected {describe(place)}")


def _show(value: object) -> str:
    """Return the value as a person would write it."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f"'{clip(value)}'"
        case int() | float():
            return clip(str(value))
        case list():
            return "(a list)" if value else "(an empty list)"
        case _:
            return "(a group of keys)"


def _suggest(key: KeyPath, schema: dict[str, Any]) -> str:
    """Return the key that may have been meant, or all valid keys."""
    known = {section: list(find_section(schema, section)["properties"]) for section in schema["properties"]}
    word = str(key[-1])
    here = known[str(key[0])] if len(key) > 1 else list(known)
    elsewhere = {name: f"{section}.{name}" for section, names in known.items() for name in names}
    if close := difflib.get_close_matches(word, here, n=1):
        return f"did you mean {close[0]}?"
    if close := difflib.get_close_matches(word, elsewhere, n=1, cutoff=0.8):
        return f"did you mean {elsewhere[close[0]]}?"
    return f"valid keys: {', '.join(here)}"


def describe(schema: dict[str, Any]) -> str:
    """Return in words which values a part of the JSON Schema allows."""
    match schema:
        case {"const": word}:
            words = str(word)
        case {"enum": choices}:
            words = f"one of {', '.join(choices)}"
        case {"anyOf": choices}:
            words = ", or ".join(describe(choice) for choice in choices)
        case {"type": "array", "items": entries}:
            n_entries = f"up to {schema['maxItems']}" if "maxItems" in schema else f"at least {schema['minItems']}"
            words = f"a list of {n_entries}, each {describe(entries)}"
        case {"type": "object", "properties": keys}:
            words = f"keys, such as {next(iter(keys))}"
        case {"type": "integer" | "number" as kind, "maximum": maximum}:
            is_open = "exclusiveMinimum" in schema
            lowest = f"above {schema['exclusiveMinimum']:g} and up" if is_open else f"from {schema['minimum']:g}"
            words = f"{'a whole number' if kind == 'integer' else 'a number'} {lowest} to {maximum:g}"
        case {"maxLength": length}:
            words = f"a text of up to {length} characters"
        case _:
            words = {"boolean": "true or false", "null": "null"}.get(schema.get("type", ""), "a text")
    return words
