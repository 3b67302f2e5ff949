"""Work on plain text: spacing and tokens, the merge of overlapping texts, word error counts. No I/O, no state."""

from daemon.text.joining import bare, join_texts, tokens_of, words_of
from daemon.text.overlap import merge_overlap
from daemon.text.wer import count_word_errors

__all__ = ["bare", "count_word_errors", "join_texts", "merge_overlap", "tokens_of", "words_of"]
