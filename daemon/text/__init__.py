"""Work on plain text: spacing, tokens and sentences, alignment, the merge of overlapping texts, word errors. Pure.

All but the languages is imported on first use: every command reads the configuration, which needs nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from daemon.text.languages import LANGUAGES

if TYPE_CHECKING:
    from daemon.text.alignment import Pair, align, edit_distance
    from daemon.text.joining import bare, is_tight, join_texts, tokens_of, unspaced_of, words_of
    from daemon.text.overlap import merge_overlap
    from daemon.text.sentences import ends_sentence, split_sentences, weigh
    from daemon.text.wer import count_word_errors

__all__ = [
    "LANGUAGES",
    "Pair",
    "align",
    "bare",
    "count_word_errors",
    "edit_distance",
    "ends_sentence",
    "is_tight",
    "join_texts",
    "merge_overlap",
    "split_sentences",
    "tokens_of",
    "unspaced_of",
    "weigh",
    "words_of",
]
_MODULES: Final = {
    "alignment": ("Pair", "align", "edit_distance"),
    "joining": ("bare", "is_tight", "join_texts", "tokens_of", "unspaced_of", "words_of"),
    "overlap": ("merge_overlap",),
    "sentences": ("ends_sentence", "split_sentences", "weigh"),
    "wer": ("count_word_errors",),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # of a module, any attribute
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"daemon.text.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
