"""Work on plain text: spacing, tokens and sentences, alignment, the merge of overlapping texts, word errors. Pure."""

from daemon.text.alignment import Pair, align, edit_distance
from daemon.text.joining import bare, is_tight, join_texts, tokens_of, unspaced_of, words_of
from daemon.text.languages import LANGUAGES
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
