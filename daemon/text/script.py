"""Chinese text in simplified or traditional characters, by OpenCC. Pure."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from opencc import OpenCC

Script = Literal["as-is", "simplified", "traditional"]

_SIMPLIFIED: Final = "t2s"
# By the model's name of the language: characters as they are written in Taiwan and in Hong Kong. OpenCC's own
# standard (s2t) prefers forms that neither uses, such as 羣 and 爲.
_TRADITIONAL: Final = {"Chinese": "s2tw", "Cantonese": "s2hk"}


def to_script(text: str, script: Script, language: str | None) -> str:
    """Return a text in the script that is wanted; words stay as they are, and so does what is not Chinese.

    Args:
        text: of one segment.
        script: as `transcribe.chinese_script`.
        language: the model's name for it. Japanese shares characters with Chinese and must not be converted.
    """
    if script == "as-is" or language not in _TRADITIONAL:
        return text
    return str(_converter(_SIMPLIFIED if script == "simplified" else _TRADITIONAL[language]).convert(text))


@cache
def _converter(name: str) -> OpenCC:
    """Load the dictionaries of one conversion; it takes a tenth of a second."""
    from opencc import OpenCC  # noqa: PLC0415  # every command reads the configuration, which names the scripts

    return OpenCC(name)
