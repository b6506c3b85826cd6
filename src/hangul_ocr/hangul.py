"""Hangul as the recogniser sees it: syllables, jamo, Unicode form, and the alphabet with its codec.

Unicode places the 11,172 modern syllables at U+AC00 in the order initial (choseong, 19), medial (jungseong, 21),
final (jongseong, 27 and "none"), so a syllable's jamo are plain arithmetic (The Unicode Standard, section 3.12).
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

FIRST_SYLLABLE = 0xAC00
N_INITIAL, N_MEDIAL, N_FINAL = 19, 21, 28
N_SYLLABLES = N_INITIAL * N_MEDIAL * N_FINAL

INITIALS = tuple("ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ")
MEDIALS = tuple("ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ")
FINALS = ("", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ")

ASCII = string.digits + string.ascii_letters + string.punctuation
#: What Korean signs and pages add to ASCII most often; the middle dot joins words (영어·수학).
SIGNS = "·…‘’“”※★☎→×℃㎡"
PLACEHOLDERS = frozenset({"xx", "xxx"})
UNKNOWN_CLASS = -1  # a time step of which nobody knows what it shows


class HangulOcrError(Exception):
    """An error that a user can act on: its message is one line that names the thing and the remedy."""


def normalise(text: str) -> str:
    """Return ``text`` in NFC: macOS writes decomposed Hangul (NFD), which no composed alphabet contains."""
    return unicodedata.normalize("NFC", text)


def read_text(path: Path) -> str:
    """Return a text file as Koreans save them: in UTF-8, with or without a mark, or in cp949.

    Raises ``HangulOcrError`` if it cannot be read or is in neither.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise HangulOcrError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    try:
        return decode_text(data)
    except UnicodeDecodeError:
        raise HangulOcrError(f"{path}: neither UTF-8 nor cp949; save it as UTF-8 (`CSV UTF-8` in Excel)") from None


def decode_text(data: bytes) -> str:
    """Return the text of bytes in UTF-8, with or without a mark, or in cp949.

    Raises ``UnicodeDecodeError`` if they are in neither.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp949")
    # Files joined by hand carry further byte order marks inside; they are never part of a label.
    return text.replace("\ufeff", "")


def is_syllable(character: str) -> bool:
    """Tell whether ``character`` is one of the 11,172 composed Hangul syllables."""
    return len(character) == 1 and 0 <= ord(character) - FIRST_SYLLABLE < N_SYLLABLES


def decompose(syllable: str) -> tuple[int, int, int]:
    """Return the indices of initial, medial and final (0 = none) of one composed syllable.

    Raises ``ValueError`` for anything else.
    """
    if not is_syllable(syllable):
        raise ValueError(f"{syllable!r} is not a Hangul syllable")
    initial, rest = divmod(ord(syllable) - FIRST_SYLLABLE, N_MEDIAL * N_FINAL)
    return (initial, *divmod(rest, N_FINAL))


def compose(initial: int, medial: int, final: int = 0) -> str:
    """Return the syllable made of the jamo with these indices; the inverse of :func:`decompose`."""
    return chr(FIRST_SYLLABLE + (initial * N_MEDIAL + medial) * N_FINAL + final)


def to_jaso(text: str) -> list[str]:
    """Split ``text`` into jaso units: a syllable gives initial, medial and (if there is one) final, the rest itself.

    Units carry their slot (``"i:ㄱ"``, ``"m:ㅏ"``, ``"f:ㄱ"``) so that an initial ㄱ never equals a final ㄱ.
    """
    units: list[str] = []
    for character in text:
        if not is_syllable(character):
            units.append(character)
            continue
        initial, medial, final = decompose(character)
        units += [f"i:{INITIALS[initial]}", f"m:{MEDIALS[medial]}"]
        if final:
            units.append(f"f:{FINALS[final]}")
    return units


def ksx1001_syllables() -> str:
    """Return the 2,350 syllables of KS X 1001 in code-point order (those that EUC-KR can write)."""
    return "".join(c for c in map(chr, range(FIRST_SYLLABLE, FIRST_SYLLABLE + N_SYLLABLES)) if _in_euc_kr(c))


def _in_euc_kr(character: str) -> bool:
    try:
        # Python's euc_kr also writes the other 8,822 syllables, as eight-byte composed sequences.
        return len(character.encode("euc_kr")) == 2
    except UnicodeEncodeError:
        return False


def is_placeholder(text: str) -> bool:
    """Tell whether a label is the annotators' mark for illegible text (``xx``, ``XXX``)."""
    return text.strip().lower() in PLACEHOLDERS


@dataclass(frozen=True)
class Alphabet:
    """The characters a recogniser can write, and the codec between strings and class numbers.

    Class 0 is reserved (CTC's blank, the attention decoder's end); ``characters[i]`` is class ``i + 1``.
    """

    characters: str

    def __post_init__(self) -> None:
        if len(set(self.characters)) != len(self.characters):
            raise ValueError("an alphabet must not repeat a character")
        if any(normalise(character) != character for character in self.characters):
            raise ValueError("an alphabet must be in NFC")

    @classmethod
    def for_texts(cls, texts: Iterable[str] = ()) -> Alphabet:
        """Return the default alphabet (space, ASCII, ``SIGNS``, KS X 1001's syllables) and what else ``texts`` hold."""
        base = " " + ASCII + SIGNS + ksx1001_syllables()
        extra = sorted(set().union(*(normalise(text) for text in texts)) - set(base))
        return cls(base + "".join(extra))

    @cached_property
    def _class_of(self) -> dict[str, int]:
        return {character: i for i, character in enumerate(self.characters, start=1)}

    def __len__(self) -> int:
        """Return the number of classes, the reserved class 0 included."""
        return len(self.characters) + 1

    def encode(self, text: str) -> list[int]:
        """Return the classes of ``text``. Raises ``KeyError`` naming a character that is not in the alphabet."""
        return [self._class_of[character] for character in normalise(text)]

    def decode(self, classes: Sequence[int]) -> str:
        """Return the string of ``classes``; class 0 is skipped."""
        return "".join(self.characters[i - 1] for i in classes if i > 0)

    def missing(self, text: str) -> set[str]:
        """Return the characters of ``text`` that this alphabet cannot write."""
        return set(normalise(text)) - self._class_of.keys()

    def jamo_classes(self) -> list[tuple[int, int, int, int]]:
        """Return ``(class, initial, medial, final)`` for each syllable of the alphabet."""
        return [(i, *decompose(c)) for i, c in enumerate(self.characters, start=1) if is_syllable(c)]


def ctc_steps_needed(classes: Sequence[int]) -> int:
    """Return how many time steps CTC needs to write ``classes``: one each, and a blank between equal neighbours."""
    return len(classes) + sum(a == b for a, b in pairwise(classes))
