"""What strings are likely before anything is seen: a character n-gram model, a lexicon, and their part in a beam.

The n-gram model interpolates orders as Witten and Bell do ("The zero-frequency problem", IEEE Transactions on
Information Theory 37(4), 1991, method C; interpolated form in Chen and Goodman, "An empirical study of smoothing
techniques for language modeling", 1998). Unlike Kneser-Ney it does not mind labels that repeat many times.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hangul_ocr.hangul import HangulOcrError, normalise, read_text
from hangul_ocr.workspace import atomic_write_text

BEGIN = "\ufdd0"  # a Unicode noncharacter: no label holds it
END = ""  # what follows a string's last character
FORMAT = "hangul-ocr character n-gram 1"


@dataclass(frozen=True)
class CharacterNgram:
    """P(character | the ``order - 1`` before it): ``counts[context][character]``, with contexts of every length.

    A context begins with ``BEGIN`` at a string's start; ``END`` is counted like a character. The probabilities of
    ``characters`` and ``END`` sum to 1; any other character gets what one never seen gets, outside that sum.
    """

    order: int
    characters: str
    counts: Mapping[str, Mapping[str, int]]

    @classmethod
    def fit(cls, texts: Iterable[str], order: int = 4, characters: str = "") -> CharacterNgram:
        """Count the n-grams of ``texts``, each as often as it is given, over their characters and ``characters``.

        Raises ``HangulOcrError`` for an order below 1 and when there are no texts.
        """
        if order < 1:
            raise HangulOcrError(f"a character n-gram model of order {order}: the order must be 1 or more")
        texts = Counter(map(normalise, texts))
        if not texts:
            raise HangulOcrError("a character n-gram model needs texts to learn from; none were given")
        alphabet = set(normalise(characters)).union(*texts)
        return cls(order, "".join(sorted(alphabet)), _count(texts, order))

    def log_probability(self, context: str, character: str) -> float:
        """Return log P(``character`` | ``context``); ``context`` is all that the string holds before it, or its tail.

        A context shorter than ``order - 1`` is taken to start the string. ``END`` as ``character`` ends it.
        """
        history = (BEGIN + context)[-(self.order - 1) :] if self.order > 1 else ""
        probability = 1 / (len(self.characters) + 1)
        for start in range(len(history), -1, -1):
            seen = self.counts.get(history[start:])
            if seen is None:  # then no longer context was seen either
                break
            total, kinds = self._sizes[history[start:]]
            probability = (seen.get(character, 0) + kinds * probability) / (total + kinds)
        return math.log(probability)

    def score(self, text: str) -> float:
        """Return log P(``text`` and its end)."""
        symbols = [*text, END]
        return sum(self.log_probability(text[:place], symbol) for place, symbol in enumerate(symbols))

    def save(self, path: Path) -> None:
        """Write the model as JSON, whole or not at all. Raises ``OSError``."""
        value = {"format": FORMAT, "order": self.order, "characters": self.characters, "counts": self.counts}
        atomic_write_text(path, json.dumps(value, ensure_ascii=False, sort_keys=True) + "\n")

    @classmethod
    def load(cls, path: Path) -> CharacterNgram:
        """Read what :meth:`save` wrote. Raises ``HangulOcrError`` naming the file if that is not what it is."""
        try:
            value = json.loads(Path(path).read_bytes())
            order, characters, counts = value["order"], value["characters"], value["counts"]
            whole = value["format"] == FORMAT and isinstance(characters, str) and _are_counts(counts)
            whole = whole and isinstance(order, int) and order >= 1
        except OSError as error:
            raise HangulOcrError(f"{path}: cannot be read ({error.strerror}); check the path") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise HangulOcrError(f"{path}: not a character n-gram model; save one again with CharacterNgram.save")
        return cls(order, characters, counts)

    @cached_property
    def _sizes(self) -> dict[str, tuple[int, int]]:
        """How often each context was seen, and by how many different characters it was followed."""
        return {context: (sum(seen.values()), len(seen)) for context, seen in self.counts.items()}


def _count(texts: Mapping[str, int], order: int) -> dict[str, dict[str, int]]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for text, times in texts.items():
        marked = BEGIN + text
        for place, symbol in enumerate([*text, END], start=1):
            for start in range(place, max(place - order, -1), -1):
                counts[marked[start:place]][symbol] += times
    return {context: dict(seen) for context, seen in counts.items()}


def _are_counts(counts: dict) -> bool:
    return "" in counts and all(
        bool(seen) and all(isinstance(times, int) and times > 0 for times in seen.values()) for seen in counts.values()
    )


@dataclass(frozen=True)
class Lexicon:
    """Whole strings that are known to occur, in NFC."""

    words: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> Lexicon:
        """Read a text file in UTF-8 or cp949, one word a line; empty lines and blanks around a word do not count.

        Raises ``HangulOcrError`` if it cannot be read or holds no word.
        """
        lines = read_text(path).splitlines()
        words = frozenset(normalise(line.strip()) for line in lines) - {""}
        if not words:
            raise HangulOcrError(f"{path}: no words there; write one a line")
        return cls(words)

    def __contains__(self, text: str) -> bool:
        return normalise(text) in self.words

    def begins(self, text: str) -> bool:
        """Tell whether some word begins with ``text`` in NFC, or is it."""
        return text in self._beginnings

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        return frozenset(word[:end] for word in self.words for end in range(len(word) + 1))


@dataclass(frozen=True)
class Fusion:
    """Shallow fusion (Hannun et al., arXiv 1408.2873): what a string's own likelihood adds to its log P(string | crop).

    ``language_weight`` times log P of the language model, ``length_bonus`` for each character (it makes up for the
    language model's liking for short strings), and ``lexicon_bonus`` for a finished string that is in the lexicon.
    """

    language: CharacterNgram | None
    lexicon: Lexicon | None
    language_weight: float
    length_bonus: float
    lexicon_bonus: float

    def __post_init__(self) -> None:
        weights = (self.language_weight, self.length_bonus, self.lexicon_bonus)
        if not all(map(math.isfinite, weights)) or self.language_weight < 0:
            raise HangulOcrError(f"fusion weights {weights}: all must be finite and the language model's not negative")

    def step(self, context: str, character: str) -> float:
        """Return what ``character`` after ``context`` adds; never more than ``length_bonus``."""
        return self.length_bonus + self._language(context, character)

    def end(self, text: str) -> float:
        """Return what ending at ``text`` adds."""
        known = self.lexicon is not None and text in self.lexicon
        return self._language(text, END) + (self.lexicon_bonus if known else 0.0)

    def may_please(self, text: str) -> bool:
        """Tell whether ``text`` may still become, or is, a string that earns the lexicon's bonus."""
        return self.lexicon is not None and self.lexicon_bonus > 0 and self.lexicon.begins(text)

    def score(self, text: str) -> float:
        """Return all that the finished ``text`` adds to its log probability."""
        return sum(self.step(text[:place], character) for place, character in enumerate(text)) + self.end(text)

    def _language(self, context: str, character: str) -> float:
        if self.language is None:
            return 0.0
        return self.language_weight * self.language.log_probability(context, character)
