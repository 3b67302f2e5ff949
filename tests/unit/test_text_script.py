"""Simplified and traditional characters."""

# ruff: noqa: RUF001  # Chinese punctuation is meant

from __future__ import annotations

import pytest

from daemon.text.script import Script, to_script


@pytest.mark.parametrize(
    ("text", "script", "language", "expected"),
    [
        ("头发和发展，里面和公里", "traditional", "Chinese", "頭髮和發展，裡面和公里"),
        ("我们为什么来这里？", "traditional", "Chinese", "我們為什麼來這裡？"),
        ("我們為什麼來這裡？", "simplified", "Chinese", "我们为什么来这里？"),
        ("佢哋喺邊度？唔該晒，冇問題嘅。", "simplified", "Cantonese", "佢哋喺边度？唔该晒，冇问题嘅。"),
        ("佢哋嘅数据喺台湾。", "traditional", "Cantonese", "佢哋嘅數據喺台灣。"),
        ("我们用 Qwen 开会, 3:30。", "traditional", "Chinese", "我們用 Qwen 開會, 3:30。"),
        ("学校の会議です。", "traditional", "Japanese", "学校の会議です。"),
        ("头发", "traditional", None, "头发"),
        ("头发", "as-is", "Chinese", "头发"),
        ("", "traditional", "Chinese", ""),
    ],
)
def test_only_chinese_is_converted(text: str, script: Script, language: str | None, expected: str) -> None:
    assert to_script(text, script, language) == expected
