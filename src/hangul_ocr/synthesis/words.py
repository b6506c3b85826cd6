"""What the synthetic crops say: real words of installed dictionaries, lengths and spaces as in the competition.

The dictionaries leave out 336 of KS X 1001's 2,350 syllables, so training streams mix in random syllables.
"""

from __future__ import annotations

import importlib.metadata
import re
import string
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from hangul_ocr.hangul import FIRST_SYLLABLE, N_SYLLABLES, HangulOcrError, ksx1001_syllables, normalise
from hangul_ocr.synthesis import phrases
from hangul_ocr.synthesis.cache import read_cached, write_cached
from hangul_ocr.synthesis.phrases import WordMaker

# Lengths of the competition's training labels (DACON 235970), 9 standing for 9 to 22, and how often a label of that
# length holds a space (18.5 % of all labels do; which lengths carry them is our estimate).
LENGTH_SHARES = (0.059, 0.225, 0.212, 0.182, 0.105, 0.093, 0.048, 0.028, 0.047)
SPACE_SHARES = (0.0, 0.0, 0.02, 0.10, 0.35, 0.40, 0.60, 0.65, 0.85)
LONGEST = 22
LETTER_SPACED_SHARE = 0.003
# How often a label holds one of the extra characters: so often for each, and all together at the most.
EXTRA_SHARE, MOST_EXTRA = 0.001, 0.05
DOUBLE_SPACE_SHARE = 0.01

# How often a real word comes from each source. People's names are many in the dictionary and rare on signs.
SOURCE_SHARES = dict(frequent=0.3, noun=0.3, place=0.12, proper=0.1, company=0.12, person=0.02, kiwi=0.04)

_PACKAGES = ("python-mecab-ko-dic", "kiwipiepy_model", "wordfreq", "Faker")
_LETTERS = (frozenset(ksx1001_syllables()), frozenset(string.ascii_lowercase))  # of Korean words, of Latin ones


@dataclass(frozen=True)
class Words:
    """Real words by source (``noun``, ``place`` ...), each a sorted tuple of strings of KS X 1001 syllables.

    ``verbs`` are inflected verbs, adjectives and adverbs, and ``latin`` English words in small letters: they stand in
    phrases, never for themselves.
    """

    by_source: Mapping[str, tuple[str, ...]]
    verbs: tuple[str, ...] = ()
    latin: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Return how many words each source gave."""
        return {source: len(words) for source, words in self.by_source.items()}

    def all(self) -> list[str]:
        """Return every word once, sorted."""
        return sorted(set().union(*self.by_source.values()))


@dataclass(frozen=True)
class Side:
    """One side of a split of all words by a stable hash: ``test`` holds ``fraction`` of them, else the rest."""

    fraction: float
    seed: int
    test: bool = False

    def allows(self, label: str) -> bool:
        """Tell whether every word of ``label`` lies on this side."""
        return all(is_held_out(word, self.fraction, self.seed) == self.test for word in words_of(label))


def is_held_out(word: str, fraction: float, seed: int) -> bool:
    """Tell whether ``word`` belongs to the held-out share: the same answer on every machine and for any string."""
    return zlib.crc32(f"{seed}/{word}".encode()) < fraction * 2**32


def words_of(label: str) -> list[str]:
    """Return the words of a label; a letter-spaced one (``가 나 다``, three or more) is the word that it spells."""
    words = label.split()
    return ["".join(words)] if len(words) > 2 and all(len(word) == 1 for word in words) else words


@dataclass(frozen=True)
class Mix:
    """Of what a stream's labels are made: shares in 0..1, and the rest as the competition words its labels.

    ``syllables`` are random ones, so that each of KS X 1001's occurs; ``phrases`` hold particles, endings and marks;
    ``joined`` two words with a mark between; ``signs`` are names of shops, stations and roads, dishes and book titles;
    ``labels`` what is printed on goods; ``numbers`` prices, dates, telephones; ``latin`` Latin words;
    ``all_syllables`` are random ones of all 11,172; ``extra`` are words with one character of the source's ``extra``.
    """

    syllables: float = 0.0
    phrases: float = 0.0
    joined: float = 0.0
    numbers: float = 0.0
    latin: float = 0.0
    all_syllables: float = 0.0
    extra: float = 0.0
    signs: float = 0.0
    labels: float = 0.0


COMPETITION = Mix()
TRAINING = Mix(syllables=0.16, phrases=0.26, joined=0.03, signs=0.08, labels=0.06, numbers=0.09, latin=0.1)


@dataclass(frozen=True)
class WordSource:
    """Draws labels in the shares of ``mix``.

    With ``side`` every word of every label lies on that side of the split, random strings included, and so does every
    noun inside a phrase. ``extra`` are characters that no dictionary has: see :meth:`with_extra`.
    """

    words: Words
    mix: Mix = COMPETITION
    side: Side | None = None
    extra: str = ""
    _tries: int = field(default=200, repr=False)

    def with_extra(self, characters: str) -> WordSource:
        """Return this source with words that hold one of ``characters``; without any it draws what it drew."""
        share = min(MOST_EXTRA, EXTRA_SHARE * len(characters))
        return replace(self, mix=replace(self.mix, extra=share), extra=characters)

    def sample(self, rng: np.random.Generator) -> str:
        """Return one label in NFC, 1 to 22 characters, no space at either end."""
        for _ in range(self._tries):
            label = self._draw(rng)
            if 0 < len(label) <= LONGEST and (self.side is None or self.side.allows(label)):
                return label
        raise HangulOcrError("no label found on this side of the word split: hold out another fraction of the words")

    def _draw(self, rng: np.random.Generator) -> str:
        mix, chance = self.mix, rng.random()
        word = self._real_word if self.side is None else partial(self._word_of_side, self._real_word)
        for share, draw in (
            (mix.syllables, lambda: self._label(_random_word, rng)),
            (mix.phrases, lambda: phrases.phrase(_phrase_length(rng), word, self.words.verbs, self.words.latin, rng)),
            (mix.joined, lambda: phrases.joined(word, rng)),
            (mix.signs, lambda: phrases.sign(word, rng)),
            (mix.labels, lambda: phrases.label(word, rng)),
            (mix.numbers, lambda: phrases.number(rng)),
            (mix.latin, lambda: phrases.latin(self.words.latin, rng)),
            (mix.all_syllables, lambda: self._label(_any_word, rng)),
            (mix.extra, lambda: self._label(self._extra_word, rng)),
        ):
            if chance < share:
                return draw()
            chance -= share
        return self._label(self._real_word, rng)

    def _label(self, maker: WordMaker, rng: np.random.Generator) -> str:
        """Return a label with the competition's lengths and spaces."""
        word = maker if self.side is None else partial(self._word_of_side, maker)
        if rng.random() < LETTER_SPACED_SHARE:
            return " ".join(word(int(rng.integers(3, 5)), rng))
        return _compose_label(_draw_length(rng), word, rng)

    def _word_of_side(self, maker: WordMaker, length: int, rng: np.random.Generator) -> str:
        """Return a word of this side: word by word, or labels of several words would become rare on a small side."""
        for _ in range(self._tries):
            if self.side.allows(word := maker(length, rng)):
                return word
        return maker(length, rng)

    def _real_word(self, length: int, rng: np.random.Generator) -> str:
        """Return a word of this length; where no dictionary has one, two shorter ones written together."""
        if (bucket := self._buckets.get(length)) is None:
            if length == 1:
                return _random_word(1, rng)
            first = int(rng.integers(1, length))
            return self._real_word(first, rng) + self._real_word(length - first, rng)
        limits, lists = bucket
        words = lists[int(np.searchsorted(limits, rng.random() * limits[-1], side="right"))]
        return words[int(rng.random() * len(words))]

    def _extra_word(self, length: int, rng: np.random.Generator) -> str:
        """Return a word of this length with one of the extra characters in place of its own."""
        word, place = self._real_word(length, rng), int(rng.integers(length))
        return word[:place] + self.extra[int(rng.integers(len(self.extra)))] + word[place + 1 :]

    @cached_property
    def _buckets(self) -> dict[int, tuple[np.ndarray, list[list[str]]]]:
        """Return for each length the cumulated shares of the sources that have such words, and their words."""
        found: dict[int, dict[str, list[str]]] = {}
        for source, words in self.words.by_source.items():
            for word in words:
                found.setdefault(len(word), {}).setdefault(source, []).append(word)
        return {
            length: (np.cumsum([SOURCE_SHARES.get(source, 0.1) for source in lists]), list(lists.values()))
            for length, lists in found.items()
        }


def load_words() -> Words:
    """Return the real words of the installed dictionaries, from the cache where these versions were read before."""
    name = _cache_name()
    if (text := read_cached(name)) and (words := _from_text(text)).by_source:
        return words
    words = _as_words({source: _clean(found, _LETTERS[source == "latin"]) for source, found in _read_sources().items()})
    write_cached(name, _to_text(words))
    return words


def _as_words(found: dict[str, tuple[str, ...]]) -> Words:
    verbs, latin = found.pop("verbs", ()), found.pop("latin", ())
    return Words(found, verbs, latin)


def syllable_counts(words: Words) -> Counter[str]:
    """Return how often each syllable occurs in the words."""
    return Counter("".join(words.all()))


def _read_sources() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    readers: tuple[Callable[[], dict[str, list[str]]], ...] = (_mecab, _kiwi, _wordfreq, _faker)
    for reader in readers:
        try:
            found.update(reader())
        except (ImportError, importlib.metadata.PackageNotFoundError, OSError, StopIteration):
            continue  # each dictionary is optional; what is missing shows in Words.counts()
    return found


def _mecab() -> dict[str, list[str]]:
    """Read the nouns, inflected verbs and adverbs of mecab-ko-dic's ``sys.dic``.

    A MeCab dictionary is a 72-byte header whose 7th to 9th integers are the sizes of trie, tokens and features; the
    features are NUL-separated strings (mecab/src/dictionary.cpp). Theirs begin ``tag,class,final,reading``, and a
    noun's reading is the word itself in Hangul.
    """
    data = _package_file("python-mecab-ko-dic", "sys.dic").read_bytes()
    trie, tokens = (int.from_bytes(data[i : i + 4], "little") for i in (24, 28))
    features = data[72 + trie + tokens :].decode("utf-8", "replace")
    found: dict[str, list[str]] = {"noun": [], "place": [], "proper": [], "person": [], "verbs": []}
    kinds = {"지명": "place", "인명": "person"}
    for tag, meaning, word in re.findall(r"(?:^|\0)(NNG|NNP),([^,]*),[^,]*,([^,\0]+)", features):
        found["noun" if tag == "NNG" else kinds.get(meaning, "proper")].append(word)
    # Inflected verbs and adjectives with one ending, and adverbs.
    found["verbs"] = re.findall(r"\0(?:V[VA]\+E[CF]|V[VA]\+ETM|MAG),[^,]*,[^,]*,([^,\0]{2,7})", features)
    # An eighth of the people is plenty, and spares every worker the memory for the rest.
    found["person"] = [name for name in found["person"] if zlib.crc32(name.encode()) % 8 == 0]
    return found


def _kiwi() -> dict[str, list[str]]:
    lines = _package_file("kiwipiepy_model", "multi.dict").read_text(encoding="utf-8").splitlines()
    entries = (line.split("\t")[:2] for line in lines if not line.startswith("#"))
    names = [entry[0] for entry in entries if len(entry) == 2 and entry[1].endswith("NNP")]
    return {"kiwi": [word for name in names for word in name.split()]}


def _wordfreq() -> dict[str, list[str]]:
    from wordfreq import top_n_list

    return {"frequent": top_n_list("ko", 30_000), "latin": top_n_list("en", 8_000)}


def _faker() -> dict[str, list[str]]:
    from faker import Faker

    faker = Faker("ko_KR")
    faker.seed_instance(0)
    makers = (faker.company, faker.street_name, faker.city, faker.job, faker.building_name)
    return {"company": [word for maker in makers for _ in range(1500) for word in maker().split()]}


def _package_file(package: str, name: str) -> Path:
    files = importlib.metadata.files(package) or []
    return Path(str(next(file for file in files if file.name == name).locate()))


def _clean(words: Iterable[str], letters: frozenset[str]) -> tuple[str, ...]:
    found = {normalise(word) for word in words}
    return tuple(sorted(word for word in found if 0 < len(word) <= LONGEST and letters.issuperset(word)))


def _cache_name() -> str:
    return "words-3-" + "-".join(_version(package) for package in _PACKAGES) + ".txt"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _to_text(words: Words) -> str:
    lists = {**words.by_source, "verbs": words.verbs, "latin": words.latin}
    return "".join(f"{source}\t{' '.join(found)}\n" for source, found in lists.items())


def _from_text(text: str) -> Words:
    rows = (line.partition("\t") for line in text.splitlines())
    return _as_words({source: tuple(found.split()) for source, _, found in rows if found})


def _draw_length(rng: np.random.Generator) -> int:
    length = 1 + int(np.searchsorted(_LENGTH_LIMITS, rng.random() * _LENGTH_LIMITS[-1], side="right"))
    # Long labels thin out towards the longest: 9 and 10 are most of them.
    return length if length < 9 else min(LONGEST, 9 + int(rng.exponential(2.2)))


_LENGTH_LIMITS = np.cumsum(LENGTH_SHARES)


def _compose_label(length: int, word: WordMaker, rng: np.random.Generator) -> str:
    """Return a label of ``length`` characters, of two or three words where chance puts spaces in it."""
    if rng.random() >= SPACE_SHARES[min(length, 9) - 1]:
        return word(length, rng)
    gap = "  " if length > 4 and rng.random() < DOUBLE_SPACE_SHARE else " "
    first = int(rng.integers(1, length - len(gap)))
    rest = length - len(gap) - first
    tail = _compose_label(rest, word, rng) if rest > 5 else word(rest, rng)
    return word(first, rng) + gap + tail


def _random_word(length: int, rng: np.random.Generator) -> str:
    return "".join(_SYLLABLES[i] for i in rng.integers(len(_SYLLABLES), size=length))


_SYLLABLES = ksx1001_syllables()


def _any_word(length: int, rng: np.random.Generator) -> str:
    """Return random syllables of all 11,172; three quarters of these stand in no word."""
    return "".join(chr(FIRST_SYLLABLE + int(i)) for i in rng.integers(N_SYLLABLES, size=length))


def _phrase_length(rng: np.random.Generator) -> int:
    return int(np.clip(rng.normal(9, 4), 3, LONGEST - 3))
