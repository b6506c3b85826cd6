"""The four-stage networks of Clova AI, and the conversion of published checkpoints.

``fixtures/clova_names.json`` holds the published names and shapes (extractor 16 wide, LSTM 12, 40 classes), and
``fixtures/clova.safetensors`` what each of the 24 networks gives for weights that are made from the names. Both were
written once the networks agreed with the authors' own; ``python tests/test_clova.py`` writes the second anew. With
``CLOVA_PARITY`` naming a folder of the authors' state dicts and outputs, the agreement itself is tested.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hangul_ocr.cli import main
from hangul_ocr.hangul import Alphabet, HangulOcrError
from hangul_ocr.models.checkpoint import initialise_from, load_model, save_model
from hangul_ocr.models.clova import ClovaBackbone, LstmAttention
from hangul_ocr.models.convert import convert_checkpoint, rename_weights
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.models.rectifier import TPS, spline
from hangul_ocr.settings import CLOVA_STEPS, ModelSettings

FIXTURES = Path(__file__).with_name("fixtures")
OUTPUTS = FIXTURES / "clova.safetensors"
COMBINATIONS = [
    "-".join(stages)
    for stages in itertools.product(("None", "TPS"), ("VGG", "RCNN", "ResNet"), ("None", "BiLSTM"), ("CTC", "Attn"))
]
CHARACTERS = " 0가각간갈감갑강개거건검게결경계고곡공과관교구국군권규그극근금급기길김나남내"
TAUGHT = [[3, 7, 7, 1, 12], [30, 2, 0, 0, 0]]


# --- networks of weights that are made from their names ---------------------------------------------------------------


def published(name: str) -> dict[str, torch.Tensor]:
    """Return a state dict as the benchmark's repository saves it, of the combination ``name``."""
    transformation, extractor, sequence, prediction = name.split("-")
    parts = [extractor, f"{sequence}-{prediction}"]
    parts += [part for part in (transformation, sequence) if part != "None"]
    return {f"module.{key}": made_up(key, tuple(shape)) for part in parts for key, shape in names()[part].items()}


@cache
def names() -> dict[str, dict[str, list[int]]]:
    return json.loads((FIXTURES / "clova_names.json").read_text())


@cache
def made_up(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return values that depend on the name and shape alone and keep a signal alive through the layers."""
    values = 2 * np.random.default_rng(zlib.crc32(name.encode())).random(shape) - 1
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if name.endswith("localization_fc2.bias"):
        along = np.linspace(-1, 1, 10)
        edges = [np.stack([along, np.full(10, edge)], axis=1) for edge in (-1, 1)]
        return torch.from_numpy(np.concatenate(edges).ravel() + 0.1 * values).float()
    if len(shape) > 1:
        values *= math.sqrt(6 / np.prod(shape[1:])) * (0.05 if "localization_fc2" in name else 1)
    elif name.endswith(("running_var", "weight")):
        values = 1 + 0.5 * values
    else:
        values *= 0.2
    return torch.from_numpy(values).float()


def network(name: str, folder: Path) -> Recognizer:
    """Return the made-up network ``name`` after its way through a .pth file and the conversion."""
    folder.mkdir(exist_ok=True)
    torch.save(published(name), folder / "best_accuracy.pth")
    (folder / "characters.txt").write_text(CHARACTERS[: 38 if name.endswith("Attn") else 39], encoding="utf-8")
    convert_checkpoint(folder / "best_accuracy.pth", folder / "characters.txt", folder / "out.safetensors")
    return load_model(folder / "out.safetensors")


def smooth_crops(height: int = 32, width: int = 100) -> torch.Tensor:
    """Return two uint8 crops (2, H, W, 1) of soft waves: the last digit of a sampling point hardly shows in them."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    waves = [torch.sin(11 * x + 3 * y) * torch.cos(5 * y - 2 * x), torch.sin(23 * x * y) + 0.4 * torch.cos(17 * x)]
    return (127.5 + 80 * torch.stack(waves)).clamp(0, 255).round().to(torch.uint8).unsqueeze(-1)


@torch.no_grad()
def outputs(model: Recognizer) -> torch.Tensor:
    """Return log probabilities (2, T or L, classes): CTC's, or attention's as it reads ``TAUGHT``.

    In double precision: in single, processors round so differently that a rectifier's scores differ by 3e-4.
    """
    model = model.double()
    pixels = model._normalised(smooth_crops().permute(0, 3, 1, 2).double())
    features = model.neck(model.backbone(model.rectifier(pixels)))
    if model.settings.decoder == "ctc":
        return model.decoder.classifier(features).log_softmax(-1).float()
    start = model.decoder.start
    return model.decoder.teacher_forced(features, torch.tensor([[start, *row] for row in TAUGHT])).float()


@pytest.mark.parametrize("name", COMBINATIONS)
def test_published_weights_give_the_kept_outputs(name, tmp_path):
    kept = load_file(OUTPUTS)[name]
    found = outputs(network(name, tmp_path))
    assert found.shape == kept.shape
    assert kept.exp().std() > 1e-3
    assert (kept[0, 0] - kept[1, 0]).abs().max() > 5e-3
    torch.testing.assert_close(found, kept, atol=1e-4, rtol=1e-4)


# --- agreement with the authors' networks -----------------------------------------------------------------------------

PARITY = os.environ.get("CLOVA_PARITY", "")


def reference(name: str) -> tuple[dict[str, torch.Tensor], Recognizer]:
    """Return the authors' tensors and our network with their weights."""
    tensors = load_file(Path(PARITY) / f"{name}.safetensors")
    weights = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    if name.startswith("TPS"):
        weights |= load_file(Path(PARITY) / "Transformation.safetensors")
    model = Recognizer(settings_of(name), Alphabet(CHARACTERS[:38] if name.endswith("Attn") else CHARACTERS[:39]))
    model.load_state_dict(rename_weights(weights))
    return tensors, model.eval()


def settings_of(name: str, **changes) -> ModelSettings:
    transformation, extractor, sequence, prediction = name.split("-")
    settings = ModelSettings(
        rectifier="tps" if transformation == "TPS" else "none",
        backbone=f"clova_{extractor.lower()}",
        backbone_args={"output_channel": 16},
        neck="clova_bilstm" if sequence == "BiLSTM" else "identity",
        decoder="ctc" if prediction == "CTC" else "lstm_attention",
        hidden=12,
        classifier="dense",
        normalisation="fixed",
        fixed_width=100,
    )
    return replace(settings, **changes)


needs_reference = pytest.mark.skipif(not PARITY, reason="CLOVA_PARITY names no folder with the authors' outputs")


def logits(model: Recognizer, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return our scores under the authors' names and in the authors' order of classes."""
    features, decoder = model.neck(model.backbone(model.rectifier(tensors["input"]))), model.decoder
    if model.settings.decoder == "ctc":
        return {"logits": decoder.classifier(features)}
    taught = decoder.classifier(decoder.outputs(features, (tensors["text"] - 1) % 40))
    state, symbols, steps = decoder.begin(features), torch.full((2,), decoder.start), []
    for _ in range(26):
        _, state = decoder.advance(features, state, symbols)
        steps.append(decoder.classifier(state[1]))
        symbols = steps[-1].argmax(-1)
    return {"logits_teacher_forced": taught.roll(1, -1), "logits_greedy": torch.stack(steps, 1).roll(1, -1)}


def rounding(model: Recognizer, tensors: dict[str, torch.Tensor]) -> float:
    """Return how much the scores differ when the fiducial points differ by a few float32 roundings (2e-7).

    The authors' input is noise: each of 3,200 samples between noisy pixels turns a rounding into a difference.
    """
    torch.manual_seed(0)
    exact = logits(model, tensors)
    hook = model.rectifier.localiser.register_forward_hook(lambda m, i, points: points + 2e-7 * torch.randn(2, 40))
    moved = [logits(model, tensors) for _ in range(8)]
    hook.remove()
    return max((other[name] - exact[name]).abs().max().item() for other in moved for name in exact)


@needs_reference
@pytest.mark.parametrize("name", COMBINATIONS)
@torch.no_grad()
def test_the_networks_agree_with_the_authors(name):
    tensors, model = reference(name)
    tolerance = max(1e-4, 2 * rounding(model, tensors)) if name.startswith("TPS") else 1e-4
    for kind, found in logits(model, tensors).items():
        torch.testing.assert_close(found, tensors[kind], atol=tolerance, rtol=0)


@needs_reference
def test_the_spline_is_the_authors():
    kept = load_file(Path(PARITY) / "Transformation.safetensors")
    terms, solution = spline(32, 100, 20, torch.device("cpu"))
    torch.testing.assert_close(terms, kept["Transformation.GridGenerator.P_hat"], atol=1e-6, rtol=0)
    torch.testing.assert_close(solution, kept["Transformation.GridGenerator.inv_delta_C"][:, :20], atol=1e-6, rtol=0)


# --- the stages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vgg", "rcnn", "resnet"])
def test_an_extractor_reads_down_as_it_reads_across(kind):
    """With every kernel mirrored along the diagonal, a mirrored crop gives the same features."""
    torch.manual_seed(0)
    backbone, mirrored = ClovaBackbone(kind, 1, 16).eval(), ClovaBackbone(kind, 1, 16).eval()
    mirrored.load_state_dict({k: v.mT if v.dim() == 4 else v for k, v in backbone.state_dict().items()})
    for width in (64, 100, 136):
        crops = torch.randn(2, 1, 32, width)
        with torch.no_grad():
            across, down = backbone(crops), mirrored(crops.mT)
        assert across.shape == (2, CLOVA_STEPS[f"clova_{kind}"](width), 16)
        torch.testing.assert_close(across, down, atol=1e-4, rtol=1e-4)


def ramp(height: int, width: int) -> torch.Tensor:
    """Return a crop (1, 1, H, W) that brightens by 1 a pixel along its long side."""
    along = torch.arange(float(max(height, width))).expand(min(height, width), -1)
    return (along if width >= height else along.T)[None, None]


@pytest.mark.parametrize("shape", [(32, 100), (32, 64), (160, 32)])
def test_a_rectifier_moves_pixels_along_the_text(shape):
    tps, crop = TPS(1).eval(), ramp(*shape)
    with torch.no_grad():
        assert (tps(crop) - crop).abs().max() <= 0.5
        tps.localiser[-1].bias.view(20, 2)[:, 0] += 2 * 5 / (max(shape) - 1)
        moved = tps(crop) - crop
    inside = moved.narrow(2 if shape[0] > shape[1] else 3, 0, max(shape) - 8)
    assert (inside - 5).abs().max() <= 0.5


def test_a_rectifier_first_used_in_inference_can_be_trained():
    tps, crops = TPS(1), torch.rand(2, 1, 32, 72)
    with torch.inference_mode():
        tps(crops)
    tps(crops).sum().backward()
    assert tps.localiser[-1].weight.grad.abs().max() > 0


def test_attention_never_writes_its_start_symbol():
    torch.manual_seed(0)
    decoder = LstmAttention(8, 12, classes=6, max_length=5).eval()
    features = torch.randn(3, 7, 8)
    decoder.classifier.bias.data[-1] += 30.0
    for rows in decoder.candidates(features, 2):
        assert decoder.start not in rows[0][0]
        assert rows[0][1] < -25  # it keeps its share of the probability, as in the published networks


def test_attention_scores_what_it_writes():
    torch.manual_seed(0)
    decoder = LstmAttention(8, 12, classes=6, max_length=5).eval()
    features = torch.randn(3, 7, 8)
    found = decoder.candidates(features, 4)
    for place in range(4):
        scores = decoder.score(features, [rows[place][0] for rows in found])
        torch.testing.assert_close(scores, torch.tensor([rows[place][1] for rows in found]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_combination_learns(name):
    torch.manual_seed(0)
    model = Recognizer(settings_of(name, max_length=4, fixed_width=64, hidden=32), Alphabet("가나다라"))
    targets, frames = [[1, 2], [3, 4, 1]], torch.full((2, model.settings.time_steps(64)), -1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(smooth_crops(32, 64), targets, frames).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.8 * losses[0]
    if name.startswith("TPS"):
        assert model.rectifier.localiser[-1].weight.abs().max() > 0


# --- conversion -------------------------------------------------------------------------------------------------------


def easyocr() -> dict[str, torch.Tensor]:
    """Return weights in the layout of EasyOCR's korean_g2: VGG, BiLSTM as wide as the extractor, CTC."""
    wider = {12: 16, 24: 32, 48: 64}
    parts = {key: shape for part in ("BiLSTM", "BiLSTM-CTC") for key, shape in names()[part].items()}
    shapes = names()["VGG"] | {key: [wider.get(n, n) for n in shape] for key, shape in parts.items()}
    return {f"module.{key}": made_up(key, tuple(shape)) for key, shape in shapes.items()}


def write(folder: Path, weights: object, characters: str = CHARACTERS[:39]) -> tuple[Path, Path, Path]:
    """Write a checkpoint and its characters; return their paths and the conversion's."""
    torch.save(weights, folder / "in.pth")
    (folder / "characters.txt").write_text(characters, encoding="utf-8")
    return folder / "in.pth", folder / "characters.txt", folder / "out.safetensors"


def test_easyocr_networks_keep_the_ratio_of_crops_64_high(tmp_path):
    settings = convert_checkpoint(*write(tmp_path, easyocr())).settings
    assert (settings.backbone, settings.neck, settings.decoder) == ("clova_vgg", "clova_bilstm", "ctc")
    assert (settings.short_side, settings.fixed_width, settings.hidden) == (64, 0, 16)
    model = load_model(tmp_path / "out.safetensors")
    assert model.alphabet.characters == CHARACTERS[:39]
    assert model.decoder.log_probabilities(model.features(smooth_crops(64, 192))).shape == (2, 47, 40)


def test_the_size_of_crops_can_be_named(tmp_path):
    settings = convert_checkpoint(*write(tmp_path, easyocr()), short_side=32, fixed_width=160).settings
    assert (settings.short_side, settings.fixed_width) == (32, 160)


def test_the_rectifier_knows_its_width(tmp_path):
    weights = published("TPS-VGG-None-CTC")
    weights["module.Transformation.GridGenerator.P_hat"] = torch.zeros(32 * 128, 23)
    assert convert_checkpoint(*write(tmp_path, weights)).settings.fixed_width == 128


@pytest.mark.parametrize("text", ["\ufeff" + CHARACTERS[:39] + "\n", "\r\n".join(CHARACTERS[:39])])
def test_characters_stand_in_one_line_or_in_many(tmp_path, text):
    convert_checkpoint(*write(tmp_path, easyocr(), text))
    assert load_model(tmp_path / "out.safetensors").alphabet.characters == CHARACTERS[:39]


@pytest.mark.parametrize(
    ("characters", "part"),
    [
        (CHARACTERS[:20], "20 characters, but the network has 39"),
        ("각" + CHARACTERS[1:39], "U\\+AC01.*twice.*U\\+E000"),
        ("\uf914" + CHARACTERS[1:39], "U\\+F914.*not in NFC"),
    ],
)
def test_unfit_characters_are_named(tmp_path, characters, part):
    with pytest.raises(HangulOcrError, match=part):
        convert_checkpoint(*write(tmp_path, easyocr(), characters))
    assert not (tmp_path / "out.safetensors").exists()


class Unwelcome:
    """What a checkpoint must not hold: unpickled, it would run code."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def without(part: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in easyocr().items() if part not in name}


def fewer_fiducials() -> dict[str, torch.Tensor]:
    key = "module.Transformation.LocalizationNetwork.localization_fc2.bias"
    return published("TPS-VGG-None-CTC") | {key: torch.zeros(20)}


@pytest.mark.parametrize(
    ("weights", "part"),
    [
        (Unwelcome(), "holds code"),
        ([torch.zeros(1)], "not a state dict"),
        ({"epoch": 3}, "not a state dict"),
        ({"conv1.weight": torch.zeros(2, 1, 3, 3)}, "no VGG, RCNN or ResNet extractor"),
        (without("Prediction"), "neither a CTC layer nor attention"),
        (without("ConvNet.12."), "not one of the 24 combinations.*layers.12"),
        (without("SequenceModeling.0.rnn"), "not one of the 24 combinations.*lstms.0"),
        (fewer_fiducials(), "10 fiducial points"),
    ],
)
def test_other_files_are_refused(tmp_path, monkeypatch, weights, part):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HangulOcrError, match=f"in.pth.*{part}"):
        convert_checkpoint(*write(tmp_path, weights))
    assert not (tmp_path / "unpickled").exists()


def test_files_that_are_missing_or_no_checkpoint_are_named(tmp_path):
    pth, characters, out = write(tmp_path, easyocr())
    with pytest.raises(HangulOcrError, match=r"none.pth.*no such checkpoint"):
        convert_checkpoint(tmp_path / "none.pth", characters, out)
    with pytest.raises(HangulOcrError, match=r"none.txt.*characters file"):
        convert_checkpoint(pth, tmp_path / "none.txt", out)
    pth.write_bytes(pth.read_bytes()[:3000])
    with pytest.raises(HangulOcrError, match="damaged"):
        convert_checkpoint(pth, characters, out)


@pytest.mark.parametrize("name", ["None-VGG-BiLSTM-CTC", "None-VGG-BiLSTM-Attn"])
def test_shared_characters_are_carried_over_to_another_alphabet(tmp_path, name):
    theirs = network(name, tmp_path)
    ours = Recognizer(theirs.settings, Alphabet("힣" + theirs.alphabet.characters[::-1][:9]))
    fresh = ours.decoder.classifier.weight[1].clone()
    carried = initialise_from(ours, tmp_path / "out.safetensors")
    assert (carried["characters"], carried["new_characters"]) == (9, 1)
    assert torch.equal(ours.decoder.classifier.weight[1], fresh)
    rows = [0, *theirs.alphabet.encode(theirs.alphabet.characters[::-1][:9])]
    rows += [-1] if name.endswith("Attn") else []
    kept = [0, *range(2, 11 + name.endswith("Attn"))]
    assert torch.equal(ours.decoder.classifier.weight[kept], theirs.decoder.classifier.weight[rows])
    assert torch.equal(ours.decoder.classifier.bias[kept], theirs.decoder.classifier.bias[rows])
    if name.endswith("Attn"):
        assert torch.equal(ours.decoder.symbols.weight[kept], theirs.decoder.symbols.weight[rows])


def test_a_tensor_with_as_many_rows_as_classes_is_not_taken_for_one_of_classes(tmp_path):
    torch.manual_seed(0)
    settings = settings_of("None-VGG-None-Attn", hidden=6)
    theirs, ours = (Recognizer(settings, Alphabet(characters)) for characters in ("가나다라마", "마라다나가"))
    save_model(tmp_path / "theirs.safetensors", theirs)
    initialise_from(ours, tmp_path / "theirs.safetensors")
    assert torch.equal(ours.decoder.query.weight, theirs.decoder.query.weight)
    assert torch.equal(ours.decoder.symbols.weight[1], theirs.decoder.symbols.weight[5])


def test_the_command_converts_and_says_what_it_found(tmp_path, capsys):
    pth, characters, out = map(str, write(tmp_path, easyocr()))
    command = ["convert-checkpoint", pth, "--characters", characters, "--out", out]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "clova_vgg" in said
    assert "39 characters" in said
    assert "64 pixels high" in said
    assert load_model(Path(out)).alphabet.characters == CHARACTERS[:39]
    assert main([*command, "--fixed-width", "100", "--short-side", "32"]) == 0
    assert "32 x 100 pixels" in capsys.readouterr().out
    Path(characters).write_text("가")
    assert main(command) == 1
    assert "1 characters, but the network has 39" in capsys.readouterr().err


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        save_file({name: outputs(network(name, Path(folder))).contiguous() for name in COMBINATIONS}, OUTPUTS)
