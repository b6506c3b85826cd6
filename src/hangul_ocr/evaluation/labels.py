"""What the labels hold: the facts to know before choosing an alphabet and a way to split."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rapidfuzz.distance import Levenshtein

from hangul_ocr.evaluation.errors import error_kind
from hangul_ocr.hangul import (
    ASCII,
    FIRST_SYLLABLE,
    N_SYLLABLES,
    SIGNS,
    Alphabet,
    is_placeholder,
    is_syllable,
    ksx1001_syllables,
    normalise,
    to_jaso,
)

SUSPECT_COLUMNS = [
    "img_path",
    "text",
    "suggestion",
    "action",
    "suspicion",
    "confidence",
    "label_probability",
    "label_rank",
    "likeness",
    "kind",
    "fold",
]
# On made crops with wrong labels among them (slips of a jamo, lost syllables, swapped rows), the odds alone found 66 %
# of them in as many suspects, with this 70 %; the confidence alone 53 %.
NEARNESS = 2.0
LEAST_CONFIDENCE = 0.2
_SMALLEST = 1e-12
OWN_CHARACTERS = "the labels' own characters, each label against the others"
# Narrow letters or two lines of text fill a crop twice and more; letter-spaced text a third of it.
MOST_FILLED, LEAST_FILLED = 3.0, 0.2
ALL_SYLLABLES = "".join(map(chr, range(FIRST_SYLLABLE, FIRST_SYLLABLE + N_SYLLABLES)))


def label_facts(texts: Sequence[str]) -> pd.Series:
    """Return counts that decide the preprocessing: spaces, placeholders, repeats, NFD, characters."""
    texts = list(texts)
    characters = {character for text in texts for character in normalise(text)}
    return pd.Series(
        {
            "labels": len(texts),
            "different labels": len(set(texts)),
            "with a space": sum(" " in text for text in texts),
            "with two spaces in a row": sum("  " in text for text in texts),
            "placeholders (xxx: illegible)": sum(map(is_placeholder, texts)),
            "not in NFC": sum(normalise(text) != text for text in texts),
            "different characters": len(characters),
            "of these Hangul syllables": sum(map(is_syllable, characters)),
        },
        name="count",
    )


def alphabets(texts: Sequence[str] = ()) -> dict[str, str]:
    """Return the characters of alphabets in use, by name; the last is the one of this package for ``texts``."""
    common, every = ksx1001_syllables(), ALL_SYLLABLES
    return {
        "2,350 syllables of KS X 1001, no space": common,
        "2,350 syllables and the space": common + " ",
        "2,350 syllables, ASCII, no space": common + ASCII,
        "11,172 syllables, no space": every,
        "11,172 syllables and the space": every + " ",
        "ours: 2,350, ASCII, the space, and what the labels add": Alphabet.for_texts(texts).characters,
    }


def alphabet_losses(texts: Sequence[str], named: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return for each alphabet its ``characters``, and ``rows_lost``, ``share_lost``: labels that it cannot write.

    Without ``named`` alphabets these are :func:`alphabets`, and before them the labels' own characters. Those can write
    every label; so each label is held against the characters of the others, as a test label will be.
    """
    texts = [normalise(text) for text in texts if text and not is_placeholder(text)]
    rows = {}
    for name, characters in (named or alphabets(texts)).items():
        known = set(characters)
        lost = sum(not known.issuperset(text) for text in texts)
        rows[name] = {"characters": len(known), "rows_lost": lost, "share_lost": lost / max(1, len(texts))}
    if named is None:
        rows = {OWN_CHARACTERS: _loss_of_own(texts)} | rows
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.astype({"characters": int, "rows_lost": int})


def _loss_of_own(texts: Sequence[str]) -> dict[str, float]:
    counts = Counter(character for text in texts for character in set(text))
    lost = sum(any(counts[character] == 1 for character in text) for text in texts)
    return {"characters": len(counts), "rows_lost": lost, "share_lost": lost / max(1, len(texts))}


def odd_labels(texts: Sequence[str]) -> pd.DataFrame:
    """Return ``row,text,oddity,detail`` of labels, as written in the file, to be looked at; a row may be odd twice."""
    found = [(row, text, *oddity) for row, text in enumerate(texts) for oddity in _oddities(text)]
    return pd.DataFrame(found, columns=["row", "text", "oddity", "detail"])


def _oddities(text: str) -> list[tuple[str, str]]:
    known = normalise(text)
    outside = sorted({c for c in known if not (is_syllable(c) or c in ASCII or c in SIGNS or c.isspace())})
    jamo = [c for c in outside if "\u3131" <= c <= "\u318e"]
    other = "".join(c for c in outside if c not in jamo and not _is_odd_space(c))
    checks = {
        "empty": not text.strip(),
        "placeholder": is_placeholder(text),
        "not in NFC": known != text,
        "space at an end": text.strip() != text and bool(text.strip()),
        "two spaces in a row": "  " in text,
        "odd space": any(map(_is_odd_space, text)),
        "jamo that are no syllable": bool(jamo),
        "rare sign": bool(other),
    }
    details = {"rare sign": other, "jamo that are no syllable": "".join(jamo)}
    return [(name, details.get(name, "")) for name, is_so in checks.items() if is_so]


def _is_odd_space(character: str) -> bool:
    """Tell whether a character is a space, or is invisible, without being the plain space."""
    return character != " " and (character.isspace() or unicodedata.category(character) in ("Cf", "Cc"))


def odd_shapes(texts: Sequence[str], widths: Sequence[float], heights: Sequence[float]) -> pd.DataFrame:
    """Return ``row,text,oddity,detail`` of crops whose label is too long or too short for them: one is cut off.

    A label that fills its crop has about as many ems (a syllable is one) as the crop's long side has short sides.
    """
    found = []
    for row, (text, width, height) in enumerate(zip(texts, widths, heights, strict=True)):
        filled = ems(text) * min(width, height) / max(width, height)
        if len(text) > 2 and filled > MOST_FILLED:
            found.append((row, text, "label too long for its crop", f"{filled:.1f} times"))
        elif filled < LEAST_FILLED and text and not is_placeholder(text):
            found.append((row, text, "crop too long for its label", f"{1 / filled:.1f} times"))
    return pd.DataFrame(found, columns=["row", "text", "oddity", "detail"])


def ems(text: str) -> float:
    """Return about how wide a text is, in syllables."""
    return sum(0.35 if c == " " else 1.0 if unicodedata.east_asian_width(c) in "WF" else 0.55 for c in text)


def shares_along(flags: Mapping[str, Sequence[bool]], window: int | None = None) -> pd.DataFrame:
    """Return the share of true ``flags`` (a column each) in a window that moves along the rows.

    The default window is a twentieth of the rows. The index is the row in the window's middle.
    """
    table = pd.DataFrame({name: np.asarray(values, float) for name, values in flags.items()})
    window = window or max(1, len(table) // 20)
    moving = table.rolling(window, center=True).mean().dropna()
    return moving.iloc[:: max(1, len(moving) // 400)]


def rank_suspects(
    oof: pd.DataFrame,
    candidates: Mapping[str, Sequence[tuple[str, float]]] | None = None,
    least_confidence: float = LEAST_CONFIDENCE,
) -> pd.DataFrame:
    """Return the rows of an out-of-fold table whose label the model contradicts, most suspicious first.

    ``oof`` has ``img_path,text,prediction,confidence,fold``; ``candidates`` are the N-best lists by ``img_path``, each
    of strings with their log probability. ``suspicion`` is how many times likelier the prediction is than the label, as
    a natural logarithm, less ``NEARNESS`` times their likeness in jamo (0..1): what is nearly the same is what models
    confuse themselves. From a prediction less sure than ``least_confidence`` nothing follows. A label outside the
    N-best is at most as likely as the last of them (without the list, as what the confidence leaves over), and its
    ``label_rank`` is empty. ``action`` is empty, to be filled in.
    """
    sure = (oof["prediction"] != "") & (oof["confidence"] >= least_confidence)
    wrong = oof[sure & (oof["text"] != oof["prediction"])]
    rows = [_suspect(row, (candidates or {}).get(row.img_path)) for row in wrong.itertuples()]
    table = pd.DataFrame(rows, columns=SUSPECT_COLUMNS)
    return table.sort_values(["suspicion", "img_path"], ascending=[False, True], kind="stable", ignore_index=True)


def _suspect(row: Any, candidates: Sequence[tuple[str, float]] | None) -> tuple:
    probability, rank = label_probability(row.text, row.confidence, candidates)
    likeness = Levenshtein.normalized_similarity(to_jaso(row.text), to_jaso(row.prediction))
    odds = math.log(max(row.confidence, _SMALLEST)) - math.log(max(probability, _SMALLEST))
    suspicion = round(odds - NEARNESS * likeness, 3)
    found = (suspicion, row.confidence, float(f"{probability:.3g}"), rank, round(likeness, 3))
    return (row.img_path, row.text, row.prediction, "", *found, error_kind(row.text, row.prediction), row.fold)


def label_probability(
    text: str, confidence: float, candidates: Sequence[tuple[str, float]] | None
) -> tuple[float, int | str]:
    """Return how likely a label is at most, given the N-best list of its crop, and its place in it (from 1) or ""."""
    if not candidates:
        return max(0.0, 1 - confidence), ""
    for place, (string, log_probability) in enumerate(candidates, start=1):
        if string == text:
            return math.exp(min(0.0, log_probability)), place
    return math.exp(min(0.0, *(log_probability for _, log_probability in candidates))), ""
