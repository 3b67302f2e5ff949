"""Where sentences end in a text, and how long its parts take to say."""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import Final

from daemon.text.joining import tokens_of

_CLOSERS: Final = "\"'”’»)]）」』】〉》"  # noqa: RUF001  # exactly these characters are meant
_MARKS: Final = ".!?…。！？؟۔।॥"  # noqa: RUF001  # exactly these characters are meant
_END: Final = re.compile(f"([{re.escape(_MARKS)}]+)[{re.escape(_CLOSERS)}]*$")
# A period after these ends no sentence: initials (J.), days (3. Mai), e.g., z.B., U.S., and common titles.
_NO_END: Final = re.compile(
    r"(?:\W*(?:[^\W\d_]|\d{1,2}|\S*[^\W\d_]\.[^\W\d_]+|"
    r"dr|mr|mrs|ms|prof|st|vs|no|nr|bzw|ca|sog|evtl|ggf|vgl|bspw|inkl|sra|sr|mme|mlle)\.)",
    re.IGNORECASE,
)
# Letters by how long they take to say: a Chinese character is a syllable, and so is half a Korean one or a kana;
# a digit is a word.
_SYLLABLES: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ebef\\d]")
_HALF_SYLLABLES: Final = re.compile("[\u3041-\u30ff\u31f0-\u31ff\uac00-\ud7af]")
_MAX_MARKS: Final = 8  # how many characters end a sentence at most
_LETTER: Final = re.compile(r"[^\W_]")
_SYLLABLE_LETTERS: Final = 3.0  # of a script with an alphabet


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text as far as it is punctuated, each with the space before it.

    Joined with "", they give the text without trailing space.
    """
    sentences = [""]
    tokens = tokens_of(text)
    for token, after in zip_longest(tokens, tokens[1:], fillvalue=""):
        sentences[-1] += token
        if after and _is_end(sentences[-1], token, after):
            sentences.append("")
    return [sentence for sentence in sentences if sentence]


def ends_sentence(text: str) -> bool:
    """Return whether a text ends with the end of a sentence."""
    text = text.rstrip()
    return bool(text) and not text[-1].isalnum() and _is_end(text, text.split()[-1], "")


def weigh(text: str) -> float:
    """Return about how long a text takes to say, in letters of an alphabet."""
    word = text.strip()
    if word.isascii() and word.isalpha():  # nearly always, where single words are asked for
        return float(len(word))
    n_letters, n_syllables = len(_LETTER.findall(text)), len(_SYLLABLES.findall(text))
    n_halves = 0 if text.isascii() else len(_HALF_SYLLABLES.findall(text))
    return n_letters - n_syllables - n_halves + _SYLLABLE_LETTERS * (n_syllables + n_halves / 2)


def _is_end(text: str, token: str, after: str) -> bool:
    """Return whether a sentence ends between a text, which ends with `token`, and the token after it, if any."""
    if text[-1].isalnum():  # nearly always
        return False
    found = _END.search(text[-_MAX_MARKS:])
    if found is None or after.startswith(tuple(_CLOSERS + _MARKS)):
        return False
    return found[1] != "." or not (_NO_END.fullmatch(token.strip()) or after.lstrip()[:1].islower())
