import json
import math
import re
from dataclasses import replace

import pytest
import torch

from hangul_ocr.hangul import Alphabet, HangulOcrError
from hangul_ocr.models.backbone import Backbone
from hangul_ocr.models.classifier import CompositionalClassifier, make_classifier
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import LossWeights, ModelSettings, load_settings

BACKBONES = [
    "resnet10t",
    "resnet18d",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_050",
    "lcnet_050",
    "starnet_s050",
    "convnext_atto",
    "edgenext_xx_small",
    "repvgg_a0",
    "tf_efficientnet_b0",
]
TINY = ModelSettings(backbone="resnet10t", backbone_args={"channels": (8, 16, 32, 32)}, hidden=48)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("along", [4, 8])
def test_every_backbone_keeps_the_reading_direction(name, along):
    backbone = Backbone(name, channels=1, along_stride=along).eval()
    with torch.no_grad():
        assert backbone(torch.zeros(2, 1, 32, 96)).shape == (2, 96 // along, backbone.width)
        assert backbone(torch.zeros(2, 1, 160, 32)).shape == (2, 160 // along, backbone.width)


def test_text_that_runs_down_is_seen_upright():
    """The same glyphs one above the other and side by side give feature maps that mirror each other."""
    torch.manual_seed(0)
    backbone = Backbone("resnet10t", channels=1, along_stride=8, across_stride=8).eval()
    square = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        wide = backbone.network.forward_features(square)
        with backbone._direction(True):
            tall = backbone.network.forward_features(square)
    assert torch.allclose(wide, tall, atol=1e-5)


def test_height_can_be_kept():
    backbone = Backbone("resnet10t", channels=1, along_stride=8, across_stride=8).eval()
    assert backbone.feature_map(torch.zeros(1, 1, 32, 64)).shape[2:] == (4, 8)
    assert backbone.feature_map(torch.zeros(1, 1, 64, 32)).shape[2:] == (4, 8)


def test_without_the_stem_s_pooling_the_map_has_the_same_size_and_finer_layers():
    sizes = {}
    for pooled in (True, False):
        backbone = Backbone("resnet10t", channels=1, along_stride=8, across_stride=8, stem_pool=pooled)
        backbone.network.layer1.register_forward_hook(lambda m, i, out, p=pooled: sizes.__setitem__(p, out.shape[2:]))
        assert backbone.feature_map(torch.zeros(1, 1, 32, 64)).shape[2:] == (4, 8)
    assert (sizes[True], sizes[False]) == ((8, 16), (16, 32))
    with pytest.raises(HangulOcrError, match="no pooling after its stem"):
        Backbone("lcnet_050", stem_pool=False)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("resnet_typo", "not a timm model"),
        ("vit_tiny_patch16_224", "does not take crops"),
        ("vit_tiny_patch16_224", "choose a convolutional one"),
        ("halonet_h1", r"does not take crops of any size \(AssertionError: "),
        ("coat_tiny", "does not take crops of any size"),
        ("xcit_nano_12_p8_224", "gives no feature map"),
        ("convmixer_768_32", "its strides cannot be adapted"),
    ],
)
def test_unfit_backbones_are_named(name, part):
    with pytest.raises(HangulOcrError, match=part):
        Backbone(name)


@pytest.mark.parametrize(
    ("name", "arguments", "part"),
    [
        ("resnet10t", {"arguments": {"mirrors": 3}}, "cannot be made .*'mirrors'.*; check backbone_args"),
        ("resnet10t", {"arguments": {"channels": [8]}}, "no attribute 'layer2'.*check backbone_args"),
        ("resnet18.nope", {}, "cannot be made .*nope"),
        ("lcnet_035", {"pretrained": True}, "No pretrained weights .*; set model.pretrained to false; or, if its"),
    ],
)
def test_unfit_choices_for_a_backbone_are_named(name, arguments, part):
    with pytest.raises(HangulOcrError, match=part):
        Backbone(name, **arguments)


def test_without_a_connection_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/nonexistent")
    with pytest.raises(HangulOcrError, match=r"'resnet18' cannot be made .*; set model\.pretrained to false; or"):
        Backbone("resnet18", pretrained=True)


@pytest.mark.parametrize("name", ["efficientvit_b0", "inception_next_atto", "mambaout_femto"])
def test_backbones_that_pool_always_or_have_their_channels_last_give_features(name):
    backbone = Backbone(name, channels=1, across_stride=8).eval()
    with torch.no_grad():
        assert backbone.feature_map(torch.zeros(2, 1, 32, 96)).shape == (2, backbone.width, 4, 12)
        assert backbone(torch.zeros(2, 1, 160, 32)).shape == (2, 20, backbone.width)


@pytest.mark.parametrize(("name", "near"), [("resnet10x", "resnet10t"), ("clova_resnt", "clova_resnet"), ("?", "timm")])
def test_a_backbone_that_nobody_knows_is_named_when_settings_are_read(tmp_path, name, near):
    path = tmp_path / "mine.json"
    for backbone in ("resnet18.a1_in1k", name):
        path.write_text(json.dumps({"model": {"backbone": backbone}}), encoding="utf-8")
        if backbone != name:
            assert load_settings(path).model.backbone == backbone
    with pytest.raises(
        HangulOcrError, match=rf"mine\.json: .*{re.escape(name)}.* is not a timm model .*near it: .*{near}"
    ):
        load_settings(path)


def test_a_syllable_never_trained_is_scored_by_its_jamo():
    torch.manual_seed(0)
    alphabet = Alphabet("가각나낙ab")
    classifier = CompositionalClassifier(16, alphabet)
    features = torch.randn(3, 16)
    scores = dict(zip("-" + alphabet.characters, classifier(features).T, strict=True))
    # Sums over jamo: 각 - 가 is the final ㄱ, and so is 낙 - 나.
    assert torch.allclose(scores["각"] - scores["가"], scores["낙"] - scores["나"], atol=1e-5)
    assert not torch.allclose(scores["a"], scores["b"])


def test_unknown_choices_are_refused():
    with pytest.raises(HangulOcrError, match="decoder"):
        ModelSettings(decoder="rnnt")
    with pytest.raises(HangulOcrError, match="compositional or dense"):
        make_classifier("sparse", 4, Alphabet("가"))


def tiny_set():
    """Eight fixed noise crops, wide and tall, each with its own string: all that a recogniser needs to memorise."""
    torch.manual_seed(1)
    texts = ["가", "나다", "라 마", "abc", "나", "값", "aa", "다라마"]
    shapes = [(32, 64)] * 4 + [(64, 32)] * 4
    return [
        (torch.randint(0, 255, (1, *shape, 1), dtype=torch.uint8), text)
        for shape, text in zip(shapes, texts, strict=True)
    ]


@pytest.mark.parametrize("decoder", ["ctc", "attention", "hybrid"])
@pytest.mark.parametrize("classifier", ["compositional", "dense"])
def test_all_decoders_learn_a_tiny_set_by_heart(decoder, classifier):
    data = tiny_set()
    alphabet = Alphabet("가나다라마값ab c")
    model = Recognizer(replace(TINY, decoder=decoder, classifier=classifier, joint_share=0.3), alphabet)
    weights = LossWeights(guidance=0.5, smoothing=0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batches = [(torch.cat([image for image, _ in part]), [text for _, text in part]) for part in (data[:4], data[4:])]
    for _ in range(120):
        for images, texts in batches:
            frames = torch.full((len(texts), 8), -1)
            loss = model(images, [alphabet.encode(text) for text in texts], frames, weights).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.train()  # the tiny set has no statistics worth averaging
    for images, texts in batches:
        assert [alphabet.decode(c) for c, _ in model.decoder.greedy(model.features(images))] == texts
        for text, candidates in zip(texts, model.candidates(images, 3), strict=True):
            assert candidates[0][0] == text
            assert len(candidates) <= 3


@pytest.mark.parametrize("decoder", ["ctc", "attention"])
def test_scores_agree_with_the_candidates_own(decoder):
    torch.manual_seed(0)
    alphabet = Alphabet("가나다 ")
    model = Recognizer(replace(TINY, decoder=decoder), alphabet).eval()
    images = torch.randint(0, 255, (2, 32, 48, 1), dtype=torch.uint8)
    candidates = model.candidates(images, 4)
    strings = [[text for text, _ in rows] for rows in candidates]
    for row, scored in zip(candidates, model.score(images, strings), strict=True):
        # A beam may drop paths of a string, so its sum is at most the exact score.
        for (_, found), exact in zip(row, scored, strict=True):
            assert found <= exact + 1e-3
    assert model.score(images, [["값"], ["가"]])[0] == [-math.inf]


def test_a_crop_without_strings_is_not_scored(monkeypatch):
    alphabet = Alphabet("가나다라마바사")
    model = Recognizer(TINY, alphabet).eval()
    images = torch.randint(0, 256, (4, 32, 96, 1), dtype=torch.uint8)
    wanted = [[], ["가", "나다"], [], ["라"]]
    alone = [model.score(images[i : i + 1], [texts])[0] for i, texts in enumerate(wanted)]
    seen = []
    score = model.decoder.score

    def watched(features, *more):
        seen.append(len(features))
        return score(features, *more)

    monkeypatch.setattr(model.decoder, "score", watched)
    found = model.score(images, wanted)
    assert [len(row) for row in found] == [0, 2, 0, 1]
    assert [value for row in found for value in row] == pytest.approx([v for row in alone for v in row], abs=1e-3)
    assert seen == [2]
    assert model.score(images[:1], [[]]) == [[]]


def test_a_hybrid_scores_by_both_decoders_where_asked():
    torch.manual_seed(0)
    alphabet = Alphabet("가나다 ")
    model = Recognizer(replace(TINY, decoder="hybrid", joint_share=0.4), alphabet).eval()
    images, strings = torch.randint(0, 255, (2, 32, 48, 1), dtype=torch.uint8), [[1, 2], [3]]
    features = model.features(images)
    ctc, attention = model.decoder.ctc.score(features, strings), model.decoder.attention.score(features, strings)
    assert torch.allclose(model.decoder.score(features, strings), 0.6 * ctc + 0.4 * attention)
    for rows in model.candidates(images, 4):
        assert [score for _, score in rows] == sorted((score for _, score in rows), reverse=True)
    assert model.decoder.greedy(features) == model.decoder.ctc.greedy(features)
    model.decoder.joint_share = 0.0
    assert torch.equal(model.decoder.score(features, strings), ctc)


def hybrid(joint_share: float) -> Recognizer:
    torch.manual_seed(0)
    return Recognizer(replace(TINY, decoder="hybrid", joint_share=joint_share), Alphabet("가나다 ")).eval()


def test_a_hybrid_finds_no_strings_in_features_of_nan():
    assert hybrid(0.5).candidates_from(torch.full((2, 4, 48), float("nan")), 3) == [[], []]


def test_a_hybrid_that_listens_to_attention_alone_scores_what_the_grid_cannot_write():
    model = hybrid(1.0)
    features = model.features(torch.randint(0, 255, (1, 32, 32, 1), dtype=torch.uint8))
    strings = [[1, 1, 1, 1]]
    assert model.decoder.ctc.score(features, strings).tolist() == [-math.inf]
    assert torch.equal(model.decoder.score(features, strings), model.decoder.attention.score(features, strings))


def test_a_hybrid_s_single_candidate_is_the_best_of_both_decoders():
    model = hybrid(0.9)
    images = torch.randint(0, 255, (4, 32, 64, 1), dtype=torch.uint8)
    assert model.candidates(images, 1) == [rows[:1] for rows in model.candidates(images, 5)]
    model.decoder.joint_share = 0.0
    for [(text, found)], [(first, probability), *_] in zip(
        model.candidates(images, 1), model.candidates(images, 5), strict=True
    ):
        assert (text, found) == (first, pytest.approx(probability))


def test_a_network_may_be_made_in_inference_and_trained_later():
    with torch.inference_mode():
        backbone = Backbone("lcnet_050", channels=1)
    assert not backbone.network.conv_head.weight.requires_grad
    backbone(torch.zeros(2, 1, 32, 64)).sum().backward()


def test_a_hybrid_branch_that_is_not_weighed_learns_nothing():
    model = Recognizer(replace(TINY, decoder="hybrid"), Alphabet("가나다"))
    images = torch.randint(0, 255, (2, 32, 64, 1), dtype=torch.uint8)
    model(images, [[1], [2, 3]], torch.full((2, 8), -1)).mean().backward()
    assert all(parameter.grad is None for parameter in model.decoder.attention.parameters())
    assert model.decoder.ctc.classifier.bias.grad.abs().sum() > 0


def test_labels_that_a_decoder_cannot_write_whole_are_counted():
    alphabet = Alphabet("가나다")
    targets = [[1, 2], [1, 1, 1], [1, 2, 3, 1, 2]]
    ctc = Recognizer(TINY, alphabet).decoder
    assert [ctc.unwritable(targets, steps) for steps in (8, 4, 2)] == [0, 2, 2]
    attention = Recognizer(replace(TINY, decoder="attention", max_length=4), alphabet).decoder
    assert attention.unwritable(targets, 8) == 1


def test_a_width_that_no_grid_fits_is_refused_by_its_name():
    with pytest.raises(HangulOcrError, match="fixed_width = 100: must be 0 or a multiple of 8"):
        replace(TINY, fixed_width=100)


def test_pixels_are_normalised_by_each_crop_s_own_mean_and_spread():
    model = Recognizer(TINY, Alphabet("가"))
    pixels = torch.rand(3, 1, 8, 24) * 255
    pixels[2] = 77.0
    expected = (pixels - pixels.mean((1, 2, 3), keepdim=True)) / (pixels.std((1, 2, 3), keepdim=True) + 4)
    assert torch.allclose(model._normalised(pixels), expected, atol=1e-5)
    assert model._normalised(pixels)[2].abs().max() == 0
