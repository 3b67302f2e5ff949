from __future__ import annotations

import pytest

from daemon.config import Config, change
from daemon.errors import ConfigError, UsageError


def test_change_sets_one_key() -> None:
    config = Config()
    assert change(config, "preprocess.highpass_hz=0").preprocess.highpass_hz == 0
    assert change(config, "segment.vad=off").segment.vad == "off"
    assert change(config, 'transcribe.hotwords=[stent, "Müller, A."]').transcribe.hotwords == ("stent", "Müller, A.")
    assert change(config, "transcribe.language=de").transcribe.language == "German"
    assert config == Config()


@pytest.mark.parametrize("assignment", ["", "=", "highpass_hz=0", "preprocess.highpass_hz", "a: {b}.c=1"])
def test_other_forms_are_wrong_usage(assignment: str) -> None:
    with pytest.raises(UsageError, match="not a change"):
        change(Config(), assignment)


def test_key_that_changes_no_word_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="does not change which words"):
        change(Config(), "output.formats=[srt]")


@pytest.mark.parametrize(
    "assignment",
    ["preprocess.highpass=0", "preprocess.highpass_hz=loud", "segment.overlap_s=15", "model.device=all"],
)
def test_wrong_key_or_value_is_a_configuration_error(assignment: str) -> None:
    with pytest.raises(ConfigError) as caught:
        change(Config(), assignment)
    assert caught.value.exit_code == 78
    assert caught.value.faults
    assert not any("(line" in fault for fault in caught.value.faults)


@pytest.mark.parametrize("assignment", ["segment.vad=[", "segment.vad=x\ny", "segment.vad=*x"])
def test_value_that_is_not_yaml_is_a_configuration_error(assignment: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        change(Config(), assignment)
