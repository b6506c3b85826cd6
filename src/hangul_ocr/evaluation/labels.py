"""What the labels hold: the facts to know before choosing an alphabet and a way to split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from hangul_ocr.hangul import (
    ASCII,
    FIRST_SYLLABLE,
    N_SYLLABLES,
    Alphabet,
    is_placeholder,
    is_syllable,
    ksx1001_syllables,
    normalise,
)

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
    """Return for each alphabet its ``characters``, and ``rows_lost``, ``share_lost``: labels that it cannot write."""
    texts = [normalise(text) for text in texts if text and not is_placeholder(text)]
    rows = {}
    for name, characters in (named or alphabets(texts)).items():
        known = set(characters)
        lost = sum(not known.issuperset(text) for text in texts)
        rows[name] = {"characters": len(known), "rows_lost": lost, "share_lost": lost / max(1, len(texts))}
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.astype({"characters": int, "rows_lost": int})


def shares_along(flags: Mapping[str, Sequence[bool]], window: int | None = None) -> pd.DataFrame:
    """Return the share of true ``flags`` (a column each) in a window that moves along the rows.

    The default window is a twentieth of the rows. The index is the row in the window's middle.
    """
    table = pd.DataFrame({name: np.asarray(values, float) for name, values in flags.items()})
    window = window or max(1, len(table) // 20)
    moving = table.rolling(window, center=True).mean().dropna()
    return moving.iloc[:: max(1, len(moving) // 400)]
