import json
import math
import unicodedata

import pytest

from hangul_ocr.hangul import HangulOcrError
from hangul_ocr.models.language import END, CharacterNgram, Fusion, Lexicon

WORDS = ["가나", "가나", "가다", "나", "", "다다다"]


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("context", ["", "가", "가나", "다다다", "라", "마라가", "아주긴글"])
def test_probabilities_sum_to_one_over_the_alphabet_and_the_end(order, context):
    model = CharacterNgram.fit(WORDS, order, "라마")
    assert set(model.characters) == set("가나다라마")
    total = sum(math.exp(model.log_probability(context, symbol)) for symbol in [*model.characters, END])
    assert total == pytest.approx(1.0, abs=1e-12)


def test_a_unigram_is_witten_and_bell_s_by_hand():
    model = CharacterNgram.fit(["가", "가", "나"], 1, "다")
    # Six symbols (two 가, one 나, three ends) of three kinds; the uniform share is one of four.
    assert math.exp(model.log_probability("", "가")) == pytest.approx((2 + 3 / 4) / 9)
    assert math.exp(model.log_probability("", "다")) == pytest.approx((3 / 4) / 9)


def test_a_longer_context_builds_on_the_shorter():
    model = CharacterNgram.fit(["가나", "가나", "다"], 2)
    below = math.exp(CharacterNgram.fit(["가나", "가나", "다"], 1).log_probability("", "나"))
    assert math.exp(model.log_probability("가", "나")) == pytest.approx((2 + 1 * below) / (2 + 1))


def test_a_string_s_score_is_the_sum_of_its_steps_and_its_end():
    model = CharacterNgram.fit(WORDS, 3)
    steps = [("", "가"), ("가", "나"), ("가나", END)]
    assert model.score("가나") == pytest.approx(sum(model.log_probability(*step) for step in steps))
    assert model.log_probability("나다가", "나") == model.log_probability("다가", "나")


def test_labels_count_as_often_as_they_are_given():
    once, often = CharacterNgram.fit(["가나", "가다"]), CharacterNgram.fit(["가나", "가다", "가다"])
    assert once.score("가나") == pytest.approx(once.score("가다"))
    assert often.score("가다") > often.score("가나")


def test_characters_never_seen_have_a_floor():
    model = CharacterNgram.fit(WORDS, 3, "라")
    assert (
        -20 < model.log_probability("가", "힣") == model.log_probability("가", "라") < model.log_probability("가", "나")
    )
    assert math.isfinite(model.score("힣라힣"))


def test_decomposed_labels_are_composed_first():
    assert CharacterNgram.fit([unicodedata.normalize("NFD", "가나")]) == CharacterNgram.fit(["가나"])


@pytest.mark.parametrize(("texts", "order"), [([], 3), (["가"], 0)])
def test_nothing_to_learn_from_is_an_error(texts, order):
    with pytest.raises(HangulOcrError, match="n-gram"):
        CharacterNgram.fit(texts, order)


def test_a_saved_model_gives_the_same_scores(tmp_path):
    model = CharacterNgram.fit(WORDS, 4, "라")
    model.save(tmp_path / "new" / "language.json")
    loaded = CharacterNgram.load(tmp_path / "new" / "language.json")
    assert loaded == model
    assert [loaded.score(text) for text in [*WORDS, "라힣"]] == [model.score(text) for text in [*WORDS, "라힣"]]


@pytest.mark.parametrize(
    "change",
    [{"format": "other"}, {"order": 0}, {"order": 2.5}, {"characters": 3}, {"counts": {}}, {"counts": {"": {"가": 0}}}],
)
def test_a_damaged_model_is_named(tmp_path, change):
    path = tmp_path / "language.json"
    CharacterNgram.fit(WORDS).save(path)
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(HangulOcrError, match=r"language\.json: not a character n-gram model"):
        CharacterNgram.load(path)


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"format": ', b"\xff\xfe\x00"])
def test_something_else_is_no_model(tmp_path, content):
    path = tmp_path / "language.json"
    path.write_bytes(content)
    with pytest.raises(HangulOcrError, match=r"language\.json: not a character n-gram model"):
        CharacterNgram.load(path)


@pytest.mark.parametrize("read", [CharacterNgram.load, Lexicon.read])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(HangulOcrError, match=r"absent\.txt: cannot be read"):
        read(tmp_path / "absent.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949"])
def test_a_lexicon_reads_as_people_save_it(tmp_path, encoding):
    path = tmp_path / "words.txt"
    path.write_bytes("가나\r\n\r\n 붙어 있는 말 \r\n가나\r\n".encode(encoding))
    lexicon = Lexicon.read(path)
    assert len(lexicon) == 2
    assert "가나" in lexicon
    assert unicodedata.normalize("NFD", "붙어 있는 말") in lexicon
    assert "가" not in lexicon
    assert "" not in lexicon


def test_a_decomposed_lexicon_is_composed(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text(unicodedata.normalize("NFD", "강남"), encoding="utf-8")
    assert Lexicon.read(path).words == {"강남"}


@pytest.mark.parametrize(("content", "problem"), [(b"\r\n \n", "no words"), (b"\xff\xff\xff", "neither UTF-8 nor")])
def test_a_lexicon_without_words_is_an_error(tmp_path, content, problem):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(HangulOcrError, match=rf"words\.txt: {problem}"):
        Lexicon.read(path)


def test_fusion_adds_up():
    model = CharacterNgram.fit(WORDS, 3)
    fusion = Fusion(model, Lexicon(frozenset({"가나"})), 0.5, 0.25, 2.0)
    assert fusion.score("가나") == pytest.approx(0.5 * model.score("가나") + 2 * 0.25 + 2.0)
    assert fusion.score("가다") == pytest.approx(0.5 * model.score("가다") + 2 * 0.25)
    assert fusion.step("가", "나") + fusion.step("", "가") + fusion.end("가나") == pytest.approx(fusion.score("가나"))


def test_only_beginnings_of_words_with_a_bonus_may_please():
    fusion = Fusion(None, Lexicon(frozenset({"가나다", "나"})), 0.0, 0.0, 2.0)
    assert [text for text in ("", "가", "가나", "가나다", "나") if fusion.may_please(text)] == [
        "",
        "가",
        "가나",
        "가나다",
        "나",
    ]
    assert not any(fusion.may_please(text) for text in ("다", "가다", "나다", "가나다라"))
    assert not Fusion(None, fusion.lexicon, 0.0, 0.0, 0.0).may_please("가")
    assert not Fusion(None, None, 0.0, 0.0, 2.0).may_please("가")


@pytest.mark.parametrize("weights", [(-0.1, 0.0, 0.0), (math.nan, 0.0, 0.0), (0.0, math.inf, 0.0)])
def test_senseless_weights_are_refused(weights):
    with pytest.raises(HangulOcrError, match="weights"):
        Fusion(None, None, *weights)
