"""Texts as numbers of words."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dtrain.errors import UsageError
from dtrain.names import module_getattr

__all__ = ["Tokenizer", "hashing_trick", "one_hot", "text_to_word_sequence"]

__getattr__ = module_getattr("tf.keras.preprocessing.text")

#: What is no part of a word.
FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'


def text_to_word_sequence(
    text: str, filters: str = FILTERS, lower: bool = True, split: str = " "
) -> list[str]:
    """The words of a text, in small letters, without the characters of filters."""
    text = text.lower() if lower else text
    return [w for w in text.translate({ord(c): split for c in filters}).split(split) if w]


def hashing_trick(
    text: str,
    n: int,
    hash_function: Any = None,
    filters: str = FILTERS,
    lower: bool = True,
    split: str = " ",
) -> list[int]:
    """The words of a text as numbers from 1 to n - 1, by a hash; two words may have the same.

    Args:
        text: the text.
        n: numbers are below it.
        hash_function: from a word to an int; 'md5' and None are MD5, which is the same on all ranks and in
            all runs.
        filters, lower, split: as of text_to_word_sequence.
    """
    if hash_function in (None, "md5", hash):

        def hash_function(word: str) -> int:
            return int(hashlib.md5(word.encode(), usedforsecurity=False).hexdigest(), 16)

    return [int(hash_function(w) % (n - 1) + 1) for w in text_to_word_sequence(text, filters, lower, split)]


def one_hot(text: str, n: int, filters: str = FILTERS, lower: bool = True, split: str = " ") -> list[int]:
    """hashing_trick, under Keras's name for it.

    Args:
        text: the text.
        n: numbers are below it.
        filters, lower, split: as of text_to_word_sequence.
    """
    return hashing_trick(text, n, None, filters, lower, split)


class Tokenizer:
    """Numbers words by how often they come, from 1; 0 is none.

    Args:
        num_words: only numbers below this are given out.
        filters, lower, split: as of text_to_word_sequence. char_level: whether characters are the words.
        oov_token: stands, as number 1, for words that it does not know.
    """

    def __init__(
        self,
        num_words: int | None = None,
        filters: str = FILTERS,
        lower: bool = True,
        split: str = " ",
        char_level: bool = False,
        oov_token: str | None = None,
        nb_words: int | None = None,
    ) -> None:
        self.num_words = num_words if nb_words is None else nb_words
        self.filters, self.lower, self.split = filters, lower, split
        self.char_level, self.oov_token = char_level, oov_token
        self.word_counts: collections.OrderedDict[str, int] = collections.OrderedDict()
        self.word_docs: dict[str, int] = collections.defaultdict(int)
        self.word_index: dict[str, int] = {}
        self.index_word: dict[int, str] = {}
        self.document_count = 0

    def _words(self, text: Any) -> list[str]:
        if not isinstance(text, str):
            return list(text)
        if self.char_level:
            return list(text.lower() if self.lower else text)
        return text_to_word_sequence(text, self.filters, self.lower, self.split)

    def fit_on_texts(self, texts: Iterable[Any]) -> None:
        """Count the words of texts, and number all that were counted."""
        for text in texts:
            self.document_count += 1
            words = self._words(text)
            for word in words:
                self.word_counts[word] = self.word_counts.get(word, 0) + 1
            for word in dict.fromkeys(words):
                self.word_docs[word] += 1
        ordered = [w for w, _ in sorted(self.word_counts.items(), key=lambda item: -item[1])]
        known = ([self.oov_token] if self.oov_token is not None else []) + ordered
        self.word_index = {word: number for number, word in enumerate(known, 1)}
        self.index_word = {number: word for word, number in self.word_index.items()}

    def texts_to_sequences(self, texts: Iterable[Any]) -> list[list[int]]:
        """The numbers of the words of each text; unknown ones are left out, or oov_token."""
        unknown = self.word_index.get(self.oov_token) if self.oov_token is not None else None
        found = []
        for text in texts:
            numbers = []
            for word in self._words(text):
                number = self.word_index.get(word)
                if number is None or (self.num_words and number >= self.num_words):
                    number = unknown
                if number is not None:
                    numbers.append(number)
            found.append(numbers)
        return found

    def sequences_to_texts(self, sequences: Iterable[Sequence[int]]) -> list[str]:
        """The words of numbers, with blanks between."""
        return [" ".join(self.index_word[n] for n in row if n in self.index_word) for row in sequences]

    def texts_to_matrix(self, texts: Sequence[Any], mode: str = "binary") -> np.ndarray:
        """sequences_to_matrix of the texts' numbers."""
        return self.sequences_to_matrix(self.texts_to_sequences(texts), mode)

    def sequences_to_matrix(self, sequences: Sequence[Sequence[int]], mode: str = "binary") -> np.ndarray:
        """A row for each sequence, and in it for each number whether it is there ('binary'), how often
        ('count'), what share of the row it is ('freq'), or 'tfidf'.

        Raises:
            UsageError: mode is none of them.
        """
        if mode not in ("binary", "count", "freq", "tfidf"):
            raise UsageError(f"sequences_to_matrix: mode={mode!r}: give binary, count, freq or tfidf.")
        width = self.num_words or len(self.word_index) + 1
        found = np.zeros((len(sequences), width))
        for at, row in enumerate(sequences):
            for number, count in collections.Counter(n for n in row if n < width).items():
                if mode == "binary":
                    found[at, number] = 1
                elif mode == "count":
                    found[at, number] = count
                elif mode == "freq":
                    found[at, number] = count / len(row)
                else:
                    docs = self.word_docs.get(self.index_word.get(number, ""), 0)
                    found[at, number] = (1 + np.log(count)) * np.log(1 + self.document_count / (1 + docs))
        return found
