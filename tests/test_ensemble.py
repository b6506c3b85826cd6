import copy
import json
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from hangul_ocr.data.batches import make_groups
from hangul_ocr.data.crops import Crop
from hangul_ocr.hangul import Alphabet, HangulOcrError
from hangul_ocr.inference.decoding import LANGUAGE, fused, load_fusion, make_fusion
from hangul_ocr.inference.ensemble import Reading, combine, most_confident, vote, with_stand_ins
from hangul_ocr.inference.predict import predictions_frame, read_crops, save_candidates
from hangul_ocr.inference.threads import in_threads
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import DecodingSettings, ModelSettings, clova
from hangul_ocr.workspace import make_accelerator

THREE = Reading(
    ["간판", "간만", "긴판"],
    np.log([[0.60, 0.30, 0.05], [0.10, 0.40, 0.45], [0.50, 0.30, 0.10]]),
    ["간판", "긴판", "간판"],
)


def test_the_joint_choice_is_the_highest_mean_log_probability():
    text, confidence = combine(THREE)
    means = THREE.scores.mean(axis=0)
    assert text == "간만" if means[1] > means[0] else "간판"
    assert confidence == pytest.approx(math.exp(means.max()))


def test_a_string_that_one_model_cannot_write_loses_but_is_not_infinite():
    reading = Reading(["가", "뷁"], np.array([[-1.0, -0.1], [-1.2, -math.inf]]), ["뷁", "가"])
    text, confidence = combine(reading)
    assert text == "가"
    assert 0 < confidence < 1


def test_vote_and_its_tie_break():
    assert vote(THREE) == "간판"
    tie = Reading(["가", "나"], np.log([[0.6, 0.1], [0.2, 0.7]]), ["가", "나"])
    assert vote(tie) == "나"
    assert most_confident(tie) == "나"


class Noise:
    """Crops of many shapes."""

    def __len__(self):
        return 23

    def crop(self, index, rng):
        noise = np.random.default_rng(index)
        shape = (noise.integers(10, 90), noise.integers(10, 200), 3)
        return Crop(f"crop {index}", noise.integers(0, 255, shape, dtype=np.uint8), "")


@pytest.fixture(scope="module")
def models():
    """Two small networks with different inputs and alphabets."""
    small = {"channels": [8, 8, 16, 16]}
    torch.manual_seed(0)
    return [
        Recognizer(ModelSettings(backbone="resnet10t", backbone_args=small, hidden=16), Alphabet("가나다ab")).eval(),
        Recognizer(
            ModelSettings(
                backbone="resnet10t", backbone_args=small, hidden=16, grey=False, short_side=48, decoder="attention"
            ),
            Alphabet("가나라 "),
        ).eval(),
    ]


def test_members_may_differ_in_input_decoder_and_alphabet(models):
    readings = read_crops(models, Noise(), candidates=3)
    assert len(readings) == 23
    for reading in readings:
        assert reading.scores.shape == (2, len(reading.strings))
        assert len(reading.own) == 2


def test_every_string_has_each_member_s_own_probability(models):
    readings = read_crops(models, Noise(), candidates=3, accelerator=make_accelerator("float32"))
    for index, reading in enumerate(readings):
        for model, scores in zip(models, reading.scores, strict=True):
            group = make_groups([Noise().crop(index, None)], model.settings, model.alphabet)[0]
            alone = with_stand_ins(reading.strings, model.score(group.images, [reading.strings])[0], model.alphabet)
            assert scores.tolist() == pytest.approx(alone, rel=1e-3, abs=1e-3)


def test_readings_come_in_the_sources_order_and_twice_the_same(models):
    accelerator = make_accelerator("float32")  # shorter numbers would round each batch in their own way
    together = read_crops(models[:1], Noise(), candidates=2, accelerator=accelerator)
    again = read_crops(models[:1], Noise(), candidates=2, accelerator=accelerator)
    for index in range(23):
        only = _Only(index)
        alone = read_crops(models[:1], only, candidates=2, accelerator=accelerator)[0]
        assert alone.own == together[index].own == again[index].own
        assert np.allclose(alone.scores, together[index].scores, atol=1e-3)
        assert np.array_equal(together[index].scores, again[index].scores)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


SEVERAL_AT_ONCE = {
    "strides that differ": ModelSettings(
        backbone="resnet10t", backbone_args={"channels": [8, 8, 16, 16]}, hidden=16, across_stride=32
    ),
    "two looks": ModelSettings(
        backbone="resnet10t", backbone_args={"channels": [8, 8, 16, 16]}, hidden=16, across_stride=32, glance=16
    ),
    "clova": clova("None-VGG-BiLSTM-CTC", 16, hidden=16, fixed_width=0),
}


@pytest.mark.parametrize("settings", SEVERAL_AT_ONCE.values(), ids=SEVERAL_AT_ONCE)
@pytest.mark.parametrize("candidates", [1, 2])
def test_crops_read_at_once_are_read_as_each_alone_whichever_way_their_text_runs(settings, candidates, two_threads):
    torch.manual_seed(0)
    model = Recognizer(settings, Alphabet("가나다ab")).eval()
    accelerator = make_accelerator("float32")
    together = read_crops([model], Noise(), candidates, accelerator, sure=0.1)
    for index, reading in enumerate(together):
        alone = read_crops([model], _Only(index), candidates, accelerator, sure=0.1)[0]
        assert alone.own == reading.own
        assert np.allclose(alone.scores, reading.scores, atol=1e-3)


def test_wide_and_tall_crops_are_never_read_beside_each_other(models, two_threads, monkeypatch):
    features, lock, running, most = models[0].features, threading.Lock(), [], []

    def watched(images):
        with lock:
            running.append(images.shape[1] > images.shape[2])
            most.append(len(running))
            assert len(set(running)) == 1
        time.sleep(0.05)
        found = features(images)
        with lock:
            running.pop()
        return found

    monkeypatch.setattr(models[0], "features", watched)
    read_crops(models[:1], Noise(), 2)
    assert max(most) == 2


def test_work_in_threads_keeps_its_order_and_gives_pytorch_its_threads_back(two_threads):
    both_here = threading.Barrier(2, timeout=60)

    def work(piece):
        both_here.wait()
        return piece, torch.get_num_threads()

    assert in_threads(work, "가나다라", torch.device("cpu")) == [(piece, 1) for piece in "가나다라"]
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 2


def test_an_error_in_a_thread_is_the_caller_s_when_all_have_ended(two_threads):
    ended = []

    def work(piece):
        time.sleep(0.02 * piece)
        ended.append(piece)
        return 1 / piece

    with pytest.raises(ZeroDivisionError):
        in_threads(work, [0, 1, 2, 3], torch.device("cpu"))
    assert set(ended) == {0, 1, 2, 3}


@pytest.fixture
def glancing():
    """A small network that looks at 16 pixels first, and takes 32."""
    torch.manual_seed(0)
    settings = ModelSettings(backbone="resnet10t", backbone_args={"channels": [8, 8, 16, 16]}, hidden=16, glance=16)
    return Recognizer(settings, Alphabet("가나다ab")).eval()


def _read_alone(model, **more):
    return read_crops([model], Noise(), 1, accelerator=make_accelerator("float32"), **more)


def _at(model, **changes):
    other = copy.copy(model)
    other.settings = replace(model.settings, **changes)
    return other


def _same(one, two):
    return one.strings == two.strings and np.allclose(one.scores, two.scores, atol=1e-3)


def test_a_first_look_decides_where_it_is_sure_and_both_sizes_elsewhere(glancing):
    looks = [_greedy_at(glancing, 32), _greedy_at(glancing, 16)]
    values = [value for _, value in looks[1]]
    middle = sum(sorted(values)[10:12]) / 2
    readings = _read_alone(glancing, sure=math.exp(middle))
    for index, (reading, close, first) in enumerate(zip(readings, *looks, strict=True)):
        if first[1] >= middle:
            assert (reading.strings, reading.own) == ([first[0]], [first[0]])
            assert reading.scores.item() == pytest.approx(first[1], abs=1e-3)
        else:
            assert reading.own == [close[0], first[0]]
            assert set(reading.strings) == {close[0], first[0]}
            expected = [_scores_at(glancing, side, index, reading.strings) for side in (32, 16)]
            assert np.allclose(reading.scores, expected, atol=1e-3)


@pytest.mark.parametrize("sure", [0.0, 1e-5, 1.0])
def test_a_scout_looks_instead_of_the_model_itself(glancing, sure):
    torch.manual_seed(1)
    settings = replace(glancing.settings, glance=0, short_side=16, hidden=8)
    scout = Recognizer(settings, glancing.alphabet).eval()
    looks = list(zip(_greedy_at(scout, 16), _greedy_at(glancing, 32), strict=True))
    readings = _read_alone(glancing, scout=scout, sure=sure)
    for reading, ((text, value), (close, _)) in zip(readings, looks, strict=True):
        assert reading.own == ([text] if math.exp(value) >= sure else [close, text])


def test_a_first_look_of_no_numbers_decides_nothing(glancing):
    with torch.no_grad():
        glancing.neck.leave[1].bias.fill_(math.nan)
    assert all(len(reading.own) == 2 for sure in (0.0, 0.9) for reading in _read_alone(glancing, sure=sure))


def test_a_first_look_may_decide_everything(glancing, monkeypatch):
    monkeypatch.setattr(glancing, "candidates_from", None)  # no closer look asks for these
    found = [(reading.strings[0], reading.scores.item()) for reading in _read_alone(glancing, sure=0.0)]
    for (text, value), (expected, log_p) in zip(found, _greedy_at(glancing, 16), strict=True):
        assert (text, value) == (expected, pytest.approx(log_p, abs=1e-3))


def _group_at(model, side, index):
    other = _at(model, glance=0, short_side=side)
    return make_groups([Noise().crop(index, None)], other.settings, other.alphabet)[0]


def _greedy_at(model, side):
    """Return each crop's greedy string and its log P at this size."""
    with torch.no_grad():
        groups = [_group_at(model, side, index) for index in range(len(Noise()))]
        return [model.greedy_from(model.features(group.images))[0] for group in groups]


def _scores_at(model, side, index, strings):
    return model.score(_group_at(model, side, index).images, [strings])[0]


@pytest.mark.parametrize(
    ("models", "asked"), [(1, {"candidates": 3}), (2, {}), (1, {"views": ["shifted"]}), (1, {"fusion": True})]
)
def test_more_models_strings_views_or_a_language_model_take_no_first_look(glancing, models, asked):
    bonus = DecodingSettings(length_bonus=0.5)
    wanted = {"candidates": 1, "accelerator": make_accelerator("float32"), "sure": 0.0} | asked
    if "fusion" in asked:
        wanted["fusion"] = make_fusion(bonus, ["가나"], glancing.alphabet.characters)
    plain = read_crops([_at(glancing, glance=0)] * models, Noise(), **wanted)
    found = read_crops([glancing] * models, Noise(), **wanted)
    assert all(_same(a, b) for a, b in zip(found, plain, strict=True))


def test_the_smaller_view_is_the_size_of_a_first_look(glancing, models):
    wanted = {"candidates": 3, "accelerator": make_accelerator("float32")}
    plain = read_crops([_at(glancing, glance=0, short_side=16)], Noise(), **wanted)
    assert all(map(_same, read_crops([glancing], Noise(), views=["smaller"], **wanted), plain))
    without = models[0]
    assert all(
        map(
            _same, read_crops([without], Noise(), views=["smaller"], **wanted), read_crops([without], Noise(), **wanted)
        )
    )


class _Only:
    def __init__(self, index):
        self.index = index

    def __len__(self):
        return 1

    def crop(self, index, rng):
        return Noise().crop(self.index, rng)


def test_candidates_are_written_best_first(tmp_path):
    save_candidates(tmp_path / "n.jsonl", ["./a.png"], [THREE])
    row = json.loads((tmp_path / "n.jsonl").read_text(encoding="utf-8"))
    assert row["img_path"] == "./a.png"
    scores = [score for _, score in row["candidates"]]
    assert scores == sorted(scores, reverse=True)
    frame = predictions_frame(["./a.png"], [THREE])
    assert frame.loc[0, "text"] == row["candidates"][0][0]


# --- what is known of the strings -----------------------------------------------------------------------------------


def test_a_prior_decides_between_near_equals_and_leaves_the_confidence_alone():
    scores = np.log([[0.5, 0.4]])
    plain = Reading(["가", "나"], scores, ["가"])
    assert combine(plain) == ("가", pytest.approx(0.5))
    assert combine(replace(plain, prior=np.array([0.0, 1.0]))) == ("나", pytest.approx(0.4))


def test_fusion_is_learnt_from_the_labels_and_only_when_asked_for(tmp_path):
    assert make_fusion(DecodingSettings(), ["가나"], "가나다") is None
    fusion = make_fusion(DecodingSettings(language_weight=0.5), ["가나"] * 9 + ["가다"], "가나다")
    assert fusion.score("가나") > fusion.score("가다") > fusion.score("다다")
    (tmp_path / "words.txt").write_text("가다\n", encoding="utf-8")
    known = make_fusion(DecodingSettings(lexicon=str(tmp_path / "words.txt"), lexicon_bonus=2.0), [], "가나다")
    assert known.score("가다") == known.score("가나") + 2.0
    with pytest.raises(HangulOcrError, match=r"gone\.txt"):
        make_fusion(DecodingSettings(lexicon=str(tmp_path / "gone.txt"), lexicon_bonus=2.0), [], "가나다")


def test_a_run_keeps_its_language_model_for_crops_of_any_origin(tmp_path):
    settings = DecodingSettings(language_weight=0.5)
    assert load_fusion(DecodingSettings(), tmp_path) is None
    with pytest.raises(HangulOcrError, match="run notebook 05"):
        load_fusion(settings, tmp_path)
    learnt = make_fusion(settings, ["가나"] * 9 + ["가다"], "가나다")
    learnt.language.save(tmp_path / LANGUAGE)
    assert load_fusion(settings, tmp_path).score("가나다") == learnt.score("가나다")


def test_models_search_with_fusion_only_meanwhile():
    alphabet = Alphabet("가나다")
    small = ModelSettings(backbone_args={"channels": (8, 8, 8, 8)}, hidden=16)
    models = [Recognizer(replace(small, decoder=name), alphabet) for name in ("ctc", "hybrid", "attention")]
    fusion = make_fusion(DecodingSettings(length_bonus=1.0), [], alphabet.characters)
    with fused(models, fusion):
        assert models[0].decoder.fusion is models[1].decoder.ctc.fusion is fusion
    assert models[0].decoder.fusion is models[1].decoder.ctc.fusion is None
