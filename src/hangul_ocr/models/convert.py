"""Published checkpoints of Clova AI's four-stage networks, and of EasyOCR's Korean ones, as checkpoints of ours.

Both are state dicts of the same family: ``Transformation.*``, ``FeatureExtraction.ConvNet.*``, ``SequenceModeling.*``
and ``Prediction.*``, mostly behind ``module.``; the combination is worked out from names and shapes. A file of
clovaai/deep-text-recognition-benchmark was trained on crops of 32 x 100 pixels, EasyOCR's (``korean_g2`` and others)
on crops 64 pixels high that keep their ratio. Both brought pixels from 0..255 to -1..1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hangul_ocr.hangul import Alphabet, HangulOcrError, normalise
from hangul_ocr.models.checkpoint import save_model
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import ModelSettings

Weights = dict[str, Tensor]

FIDUCIALS = 20
_RENAMED = (
    (r"^Transformation\.LocalizationNetwork\.conv\.", "rectifier.localiser."),
    (r"^Transformation\.LocalizationNetwork\.localization_fc1\.0\.", "rectifier.localiser.17."),
    (r"^Transformation\.LocalizationNetwork\.localization_fc2\.", "rectifier.localiser.19."),
    (r"^FeatureExtraction\.ConvNet\.", "backbone.layers."),
    (r"\.wgf_u\.", ".gate_input."),
    (r"\.wgr_x\.", ".gate_state."),
    (r"\.wf_u\.", ".input."),
    (r"\.wr_x\.", ".state."),
    (r"\.BN_x_init\.", ".norm."),
    (r"\.GRCL\.(\d)\.", r".steps.\1."),
    (r"\.BN_gfu\.", ".gate_input."),
    (r"\.BN_grx\.", ".gate_state."),
    (r"\.BN_fu\.", ".input."),
    (r"\.BN_rx\.", ".state."),
    (r"\.BN_Gx\.", ".gated."),
    (r"^SequenceModeling\.(\d)\.rnn\.", r"neck.lstms.\1."),
    (r"^SequenceModeling\.(\d)\.linear\.", r"neck.linears.\1."),
)
# Tensors that the rectifier works out for each size by itself.
_WORKED_OUT = "Transformation.GridGenerator."
_CELL, _GENERATOR = "Prediction.attention_cell.", "Prediction.generator."


def convert_checkpoint(
    path: Path, characters: Path, out: Path, short_side: int | None = None, fixed_width: int | None = None
) -> Recognizer:
    """Write the published checkpoint ``path`` to ``out`` as one of ours; return the network.

    ``characters`` is a text file with the network's characters in the order of its classes, in one line or in many
    (ends of lines do not count, spaces do), without the blank, [GO] and [s]. ``short_side`` and ``fixed_width``
    (pixels; 0 keeps the ratio) replace what the file's kind was trained with.

    Raises ``HangulOcrError`` for a file that is no such state dict or holds code, for another number of characters
    than the network has, and for characters that are doubled or not in NFC: an alphabet of ours has neither.
    """
    weights = _read_weights(path)
    chosen = {"short_side": short_side, "fixed_width": fixed_width}
    try:
        settings = replace(_settings(path, weights), **{name: v for name, v in chosen.items() if v is not None})
        model = Recognizer(settings, _read_alphabet(characters, _character_count(weights)))
        model.load_state_dict(rename_weights(weights))
    except (KeyError, IndexError, RuntimeError) as error:
        problem = " ".join(str(error).split())[:200]
        raise HangulOcrError(f"{path}: not one of the 24 combinations ({problem}); convert another file") from None
    save_model(out, model, {"converted_from": path.name})
    return model


def _read_weights(path: Path) -> Weights:
    """Return the state dict of ``path`` without ``module.``; code in the file is never run."""
    if not path.is_file():
        raise HangulOcrError(f"{path}: no such checkpoint; name a .pth file")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise HangulOcrError(
            f"{path}: cannot be read as weights alone, it is damaged or holds code ({reason}); "
            "save model.state_dict() by torch.save and convert that"
        ) from None
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise HangulOcrError(f"{path}: not a state dict; save model.state_dict() by torch.save and convert that")
    return {name.removeprefix("module."): value for name, value in loaded.items()}


@dataclass(frozen=True)
class _Stages:
    """What names and shapes say of a network."""

    rectified_pixels: int
    extractor: str
    channels: int
    width: int
    hidden: int
    recurrent: bool
    attention: bool


def _stages(path: Path, weights: Weights) -> _Stages:
    extractor, first = _extractor(path, weights)
    attention = f"{_GENERATOR}weight" in weights
    if not attention and "Prediction.weight" not in weights:
        raise HangulOcrError(f"{path}: has neither a CTC layer nor attention (Prediction.*); convert another file")
    grid = weights.get(f"{_WORKED_OUT}P_hat")
    recurrent = weights.get("SequenceModeling.0.linear.weight")
    features = _last_width(weights, extractor)
    hidden = weights[f"{_GENERATOR}weight"].shape[1] if attention else features
    return _Stages(
        rectified_pixels=len(grid) if grid is not None else 0,
        extractor=extractor,
        channels=first.shape[1],
        width=features,
        hidden=len(recurrent) if recurrent is not None else hidden,
        recurrent=recurrent is not None,
        attention=attention,
    )


def _extractor(path: Path, weights: Weights) -> tuple[str, Tensor]:
    """Return the extractor's kind and its first convolution."""
    for kind, mark, first in (("resnet", "conv0_1", "conv0_1"), ("rcnn", "3.wf_u", "0"), ("vgg", "18", "0")):
        names = [f"FeatureExtraction.ConvNet.{name}.weight" for name in (mark, first)]
        if all(name in weights for name in names):
            return kind, weights[names[1]]
    raise HangulOcrError(
        f"{path}: no VGG, RCNN or ResNet extractor among its {len(weights)} tensors (FeatureExtraction.ConvNet.*); "
        "only checkpoints of clovaai/deep-text-recognition-benchmark and EasyOCR's of the same family can be converted"
    )


def _last_width(weights: Weights, extractor: str) -> int:
    last = {"resnet": "conv4_2", "rcnn": "9", "vgg": "18"}[extractor]
    name = f"FeatureExtraction.ConvNet.{last}.weight"
    return len(weights[name]) if name in weights else 0


def _settings(path: Path, weights: Weights) -> ModelSettings:
    stages = _stages(path, weights)
    _check_fiducials(path, weights)
    # EasyOCR's networks are as wide in the LSTM as in the extractor; the benchmark's are half as wide.
    easyocr = not stages.rectified_pixels and stages.recurrent and stages.hidden == stages.width
    return ModelSettings(
        rectifier="tps" if stages.rectified_pixels else "none",
        backbone=f"clova_{stages.extractor}",
        backbone_args={"output_channel": stages.width},
        grey=stages.channels == 1,
        neck="clova_bilstm" if stages.recurrent else "identity",
        hidden=stages.hidden,
        decoder="lstm_attention" if stages.attention else "ctc",
        classifier="dense",
        normalisation="fixed",
        short_side=64 if easyocr else 32,
        fixed_width=0 if easyocr else stages.rectified_pixels // 32 or 100,
    )


def _check_fiducials(path: Path, weights: Weights) -> None:
    bias = weights.get("Transformation.LocalizationNetwork.localization_fc2.bias")
    if bias is not None and len(bias) != 2 * FIDUCIALS:
        raise HangulOcrError(
            f"{path}: its rectifier has {len(bias) // 2} fiducial points, {FIDUCIALS} can be converted"
        )


def _character_count(weights: Weights) -> int:
    """Return how many characters the network writes: its classes without the blank, or without [GO] and [s]."""
    attention = weights.get(f"{_GENERATOR}weight")
    return len(attention) - 2 if attention is not None else len(weights["Prediction.weight"]) - 1


def _read_alphabet(path: Path, expected: int) -> Alphabet:
    try:
        characters = re.sub(r"[\r\n]", "", path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise HangulOcrError(
            f"{path}: no readable characters file ({error}); write the network's characters into a UTF-8 text file"
        ) from None
    if len(characters) != expected:
        raise HangulOcrError(
            f"{path}: {len(characters)} characters, but the network has {expected}; "
            "name the list that it was trained with, in that order, spaces included"
        )
    _check_characters(path, characters)
    return Alphabet(characters)


def _check_characters(path: Path, characters: str) -> None:
    doubled = sorted({c for c in characters if characters.count(c) > 1})
    composed = [c for c in characters if normalise(c) != c]
    if doubled or composed:
        character, fault = (doubled[0], "stands there twice") if doubled else (composed[0], "is not in NFC")
        raise HangulOcrError(
            f"{path}: {character!r} (U+{ord(character):04X}) {fault}, so it could never be told from its other form; "
            "put a character in its place that no label has, such as U+E000"
        )


def rename_weights(weights: Weights) -> Weights:
    """Return a published state dict, without ``module.``, under our names and with the classes in our order."""
    attention = {name.removeprefix(_CELL): value for name, value in weights.items() if name.startswith(_CELL)}
    renamed = _attention(attention) if attention else {}
    for name, value in weights.items():
        if name.startswith((_CELL, _WORKED_OUT)):
            continue
        if name.startswith(_GENERATOR):
            renamed[f"decoder.classifier.{name.removeprefix(_GENERATOR)}"] = value.roll(-1, 0)
        else:
            renamed[_our_name(name)] = value
    return renamed


def _our_name(name: str) -> str:
    if re.fullmatch(r"Prediction\.(weight|bias)", name):
        return name.replace("Prediction", "decoder.classifier")
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _attention(cell: Weights) -> Weights:
    """Return the attention cell's tensors; the LSTM's input is features and then one-hot [GO], [s], characters."""
    width = cell["i2h.weight"].shape[1]
    context, symbols = cell["rnn.weight_ih"][:, :width], cell["rnn.weight_ih"][:, width:]
    return {
        "decoder.key.weight": cell["i2h.weight"],
        "decoder.query.weight": cell["h2h.weight"],
        "decoder.query.bias": cell["h2h.bias"],
        "decoder.energy.weight": cell["score.weight"],
        "decoder.context.weight": context,
        "decoder.context.bias": cell["rnn.bias_ih"] + cell["rnn.bias_hh"],
        "decoder.recurrent.weight": cell["rnn.weight_hh"],
        # [GO] is their first class and our last, [s] their second and our first.
        "decoder.symbols.weight": symbols.T.roll(-1, 0),
    }
