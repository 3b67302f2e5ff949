"""config.example.yaml, docs/configuration.md and the JSON Schema say what the schema says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml

from daemon import config
from daemon.config import Config
from daemon.config.schema import LATER, find_section
from daemon.documents import FORMATS
from tests.configs import KEYS

ROOT = Path(__file__).parents[2]
WRITER = runpy.run_path(str(ROOT / "tools" / "write_config_docs.py"))
EXAMPLE, TABLE = WRITER["example"](), WRITER["table"]()
REMEDY = "run `python tools/write_config_docs.py`"


def test_example_is_generated_from_the_schema() -> None:
    assert (ROOT / "config.example.yaml").read_text(encoding="utf-8") == EXAMPLE, REMEDY


def test_table_is_generated_from_the_schema() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == TABLE, REMEDY


def test_example_has_every_key_with_its_default_and_a_comment() -> None:
    assert config.load(ROOT / "config.example.yaml") == Config()
    text = EXAMPLE
    assert {section: list(keys) for section, keys in yaml.safe_load(text).items()} == KEYS
    lines = [line for line in text.splitlines() if line.startswith("  ")]
    assert len(lines) == sum(len(keys) for keys in KEYS.values())
    for line in lines:
        assert re.fullmatch(r"  \w+: .+ # .+", line), line


@pytest.mark.parametrize("text", [EXAMPLE, TABLE], ids=["example", "table"])
def test_keys_that_are_not_implemented_are_marked(text: str) -> None:
    section, marked = "", set()
    for line in text.splitlines():
        if match := re.match(r"(?:## )?(\w+)(?::|$)", line):
            section = match[1]
        elif (match := re.match(r"(?:  |\| `)(\w+)[:`]", line)) and "(not implemented yet)" in line:
            marked.add(f"{section}.{match[1]}")
    assert marked == {entry for entry in LATER if ": " not in entry}


def test_json_schema_is_closed_and_describes_every_key() -> None:
    schema = config.json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert list(schema["properties"]) == list(KEYS)
    assert not schema["additionalProperties"]
    for section in schema["properties"]:
        known = find_section(schema, section)
        assert list(known["properties"]) == KEYS[section]
        assert not known["additionalProperties"]
        assert known["description"]
        assert all(key["description"] for key in known["properties"].values())
        assert all("default" in key for key in known["properties"].values())
    assert schema["$defs"]["Output"]["properties"]["formats"]["items"]["enum"] == list(FORMATS)
    assert schema["$defs"]["ModelSettings"]["properties"]["aligner"]["const"] is None
