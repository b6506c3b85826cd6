"""What is known of the strings before a crop is seen: a language model of the training labels, a lexicon."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.models.language import CharacterNgram, Fusion, Lexicon
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import DecodingSettings

#: In a run's folder: the language model of all its training labels, for crops of any origin.
LANGUAGE = "language.json"


def make_fusion(settings: DecodingSettings, texts: Sequence[str], characters: str) -> Fusion | None:
    """Return what the settings ask to weigh in, learnt from the labels ``texts``; None if they ask for nothing.

    Raises ``HangulOcrError`` if the lexicon cannot be read.
    """
    learns = settings.language_weight > 0 and len(texts) > 0
    language = CharacterNgram.fit(texts, settings.language_order, characters) if learns else None
    return _fusion(settings, language)


def load_fusion(settings: DecodingSettings, folder: Path) -> Fusion | None:
    """Return what the settings ask to weigh in, with the language model that a run keeps in its ``folder``.

    Raises ``HangulOcrError`` if it is not there, or the lexicon cannot be read.
    """
    if settings.language_weight > 0 and not (folder / LANGUAGE).is_file():
        raise HangulOcrError(f"{folder / LANGUAGE}: not there; run notebook 05 or `hangul-ocr ensemble` first")
    language = CharacterNgram.load(folder / LANGUAGE) if settings.language_weight > 0 else None
    return _fusion(settings, language)


def decoding_facts(settings: DecodingSettings) -> dict[str, Any]:
    """Return what decides how strings are weighed, as JSON writes it: the settings, and a hash of the lexicon's words.

    Raises ``HangulOcrError`` if the lexicon cannot be read.
    """
    facts = dataclasses.asdict(settings)
    if settings.lexicon:
        words = sorted(Lexicon.read(Path(settings.lexicon).expanduser()).words)
        facts["lexicon_sha256"] = hashlib.sha256("\n".join(words).encode("utf-8", "backslashreplace")).hexdigest()
    return facts


def _fusion(settings: DecodingSettings, language: CharacterNgram | None) -> Fusion | None:
    if settings == DecodingSettings():
        return None
    lexicon = Lexicon.read(Path(settings.lexicon).expanduser()) if settings.lexicon else None
    return Fusion(language, lexicon, settings.language_weight, settings.length_bonus, settings.lexicon_bonus)


@contextmanager
def fused(models: Sequence[Recognizer], fusion: Fusion | None) -> Iterator[None]:
    """Let the CTC decoders of ``models`` search with ``fusion`` meanwhile."""
    decoders = [(getattr(model.decoder, "ctc", model.decoder), model.alphabet) for model in models]
    searching = [(decoder, alphabet) for decoder, alphabet in decoders if hasattr(decoder, "fuse")]
    for decoder, alphabet in searching:
        decoder.fuse(fusion, alphabet)
    try:
        yield
    finally:
        for decoder, _ in searching:
            decoder.fuse(None)
