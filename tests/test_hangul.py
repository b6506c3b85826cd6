import unicodedata

import pytest

from hangul_ocr.hangul import (
    FIRST_SYLLABLE,
    N_SYLLABLES,
    Alphabet,
    compose,
    ctc_steps_needed,
    decompose,
    is_placeholder,
    ksx1001_syllables,
    normalise,
    to_jaso,
)


def test_every_syllable_survives_decomposition():
    for code in range(FIRST_SYLLABLE, FIRST_SYLLABLE + N_SYLLABLES):
        assert compose(*decompose(chr(code))) == chr(code)


@pytest.mark.parametrize("character", ["ㄱ", "a", "", "가나"])
def test_only_one_composed_syllable_decomposes(character):
    with pytest.raises(ValueError, match="not a Hangul syllable"):
        decompose(character)


def test_jamo_agree_with_unicode():
    for syllable in "값뷁힣가":
        jamo = unicodedata.normalize("NFD", syllable)
        initial, medial, final = decompose(syllable)
        assert [ord(j) for j in jamo] == [0x1100 + initial, 0x1161 + medial] + ([0x11A7 + final] if final else [])


def test_ksx1001_has_its_2350_syllables():
    syllables = ksx1001_syllables()
    assert len(syllables) == 2350
    assert syllables[0] == "가"
    assert syllables[-1] == "힝"
    assert "뷁" not in syllables


def test_codec_round_trip_and_reserved_class():
    alphabet = Alphabet.for_texts(["뷁 ㅋㅋ…"])
    for text in ("뷁 ㅋㅋ…", "A1 가나  다", "!@#"):
        assert alphabet.decode(alphabet.encode(text)) == text
    assert 0 not in alphabet.encode(alphabet.characters)
    assert len(alphabet) == len(alphabet.characters) + 1


def test_nfd_labels_are_the_same_labels():
    nfd = unicodedata.normalize("NFD", "한글 값")
    assert normalise(nfd) == "한글 값"
    assert Alphabet.for_texts([nfd]).characters == Alphabet.for_texts(["한글 값"]).characters
    assert Alphabet.for_texts([]).encode(nfd) == Alphabet.for_texts([]).encode("한글 값")


def test_alphabet_names_what_it_cannot_write():
    alphabet = Alphabet("가나")
    assert alphabet.missing("가다 나") == {"다", " "}
    with pytest.raises(KeyError, match="다"):
        alphabet.encode("다")


@pytest.mark.parametrize("characters", ["가가", "\N{ANGSTROM SIGN}"])
def test_broken_alphabets_are_refused(characters):
    with pytest.raises(ValueError, match="alphabet must"):
        Alphabet(characters)


def test_lone_conjoining_jamo_in_labels_are_characters():
    alphabet = Alphabet.for_texts(["\u1100", "\u1161"])
    assert not alphabet.missing("\u1100")
    assert not alphabet.missing("\u1161")


def test_jaso_units_know_their_slot():
    assert to_jaso("각a") == ["i:ㄱ", "m:ㅏ", "f:ㄱ", "a"]
    assert to_jaso("가") == ["i:ㄱ", "m:ㅏ"]


def test_ctc_needs_a_blank_between_equal_neighbours():
    assert ctc_steps_needed([1, 1, 2]) == 4
    assert ctc_steps_needed([]) == 0


@pytest.mark.parametrize(("text", "expected"), [("XXX", True), ("xx", True), ("xxl", False), ("", False)])
def test_placeholders(text, expected):
    assert is_placeholder(text) is expected
