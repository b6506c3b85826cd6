"""Weights on disk: one safetensors file that says what it is. Nothing is ever unpickled.

The header's ``hangul_ocr`` entry is JSON with the model's settings and its alphabet, so a file can be loaded knowing
nothing else. Files appear whole or not at all: they are written aside and renamed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from hangul_ocr.hangul import Alphabet, HangulOcrError
from hangul_ocr.models.classifier import CompositionalClassifier
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import ModelSettings
from hangul_ocr.workspace import share_as_usual

HEADER = "hangul_ocr"
FORMAT = 1
# The tensors with a row for each class. Their names tell: another tensor may have as many rows by chance.
_BY_CLASS = re.compile(r"decoder\.(\w+\.)?(classifier\.(weight|bias|residual)|(embedding|symbols)\.weight)")
#: What each decoder is made of, and where its tensors lie.
_PARTS = {
    "ctc": {"ctc": "decoder."},
    "attention": {"attention": "decoder."},
    "hybrid": {"ctc": "decoder.ctc.", "attention": "decoder.attention."},
    "lstm_attention": {"lstm_attention": "decoder."},
}


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header to ``path``, aside first. Raises ``HangulOcrError`` if the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    # Clones: safetensors refuses tensors that share memory, as tied or expanded ones do.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        save_file(plain, aside, metadata={HEADER: json.dumps(header, ensure_ascii=False)})
        _flush(aside)
        share_as_usual(aside)
        os.replace(aside, path)
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        raise HangulOcrError(f"{path}: cannot be written ({error}); free some disk space and run again") from None


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and header of a file by :func:`save_tensors`. Raises ``HangulOcrError`` for any other."""
    header = read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise HangulOcrError(f"{path}: damaged checkpoint ({error}); take another or train again") from None


def read_header(path: Path) -> dict[str, Any]:
    """Return the JSON header alone."""
    if not path.is_file():
        raise HangulOcrError(f"{path}: no such checkpoint; train first, or name another run")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise HangulOcrError(f"{path}: not a safetensors file ({error}); take another or train again") from None
    if HEADER not in metadata:
        raise HangulOcrError(f"{path}: safetensors, but not written by this project; convert it first")
    return json.loads(metadata[HEADER])


def save_model(path: Path, model: Recognizer, facts: dict[str, Any] | None = None, half: bool = False) -> None:
    """Save weights, settings and alphabet of ``model``; ``facts`` (step, accuracy ...) are kept in the header.

    In ``half`` precision the file is half as large, and loads into float32 all the same.
    """
    header = {
        "format": FORMAT,
        "model": dataclasses.asdict(model.settings),
        "alphabet": model.alphabet.characters,
        "facts": facts or {},
    }
    tensors = model.state_dict()
    if half:
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    save_tensors(path, tensors, header)


def load_model(path: Path, device: torch.device | str = "cpu") -> Recognizer:
    """Rebuild the recogniser of a file by :func:`save_model`, in evaluation mode."""
    tensors, header = _load_weights(path)
    model = Recognizer(_settings(path, header), Alphabet(header["alphabet"]))
    _load_strictly(model, tensors, path)
    return model.to(device).eval()


def model_settings(path: Path) -> ModelSettings:
    """Return the settings of the network in a file by :func:`save_model`."""
    return _settings(path, _load_weights(path)[1])


def _settings(path: Path, header: dict[str, Any]) -> ModelSettings:
    try:
        return dataclasses.replace(ModelSettings(**header["model"]), pretrained=False)
    except TypeError as error:  # a setting that this version does not have, or no longer has
        raise HangulOcrError(f"{path}: made by another version ({error}); train again") from None


def _load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, header = load_tensors(path)
    if not {"model", "alphabet"} <= set(header):
        raise HangulOcrError(f"{path}: a training state, not weights; name the best.safetensors beside it")
    return tensors, header


def initialise_from(model: Recognizer, path: Path) -> dict[str, int]:
    """Copy the weights of ``path`` into ``model``; class rows are matched by character, new characters start fresh.

    A new syllable of a compositional classifier starts as its jamo let expect. Blocks that a deeper ResNet has more
    start as if they were not there, so it reads just what the shallower one did. Of another decoder what both have is
    taken, CTC or the attention; the rest starts fresh. Returns how many tensors were taken and how many were not, and
    how many characters were carried over. Raises ``HangulOcrError`` if the networks differ in anything else.
    """
    tensors, header = _load_weights(path)
    theirs, ours = Alphabet(header["alphabet"]), model.alphabet
    shared = [(ours.encode(c)[0], theirs.encode(c)[0]) for c in ours.characters if not theirs.missing(c)]
    tensors, begun = _for_decoder(model.settings.decoder, str(header["model"].get("decoder")), tensors)
    begun += _added_blocks(model, tensors)
    whole = model.state_dict()
    state = {name: tensor for name, tensor in whole.items() if not name.startswith(begun)}
    if set(state) != set(tensors):
        raise HangulOcrError(f"{path}: holds another network ({_difference(state, tensors)}); use its settings")
    for name, tensor in state.items():
        tensor.copy_(_fitted(name, tensor, tensors[name], shared, (len(ours), len(theirs)), path))
    fresh = [ours.encode(c)[0] for c in ours.characters if theirs.missing(c)]
    for module in model.modules():
        if isinstance(module, CompositionalClassifier):
            module.expect(fresh)
    carried = len(shared) if any(map(_BY_CLASS.fullmatch, state)) else 0
    counts = {"tensors": len(state), "fresh_tensors": len(whole) - len(state)}
    return counts | {"characters": carried, "new_characters": len(ours.characters) - carried}


def _for_decoder(ours: str, theirs: str, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors of a network with the decoder ``theirs`` under the names that they have with ``ours``, and the
    prefixes of what ``theirs`` has no part of."""
    wanted, there = _PARTS[ours], _PARTS.get(theirs, {})
    renamed = {}
    for name, tensor in tensors.items():
        part = next((part for part, prefix in there.items() if name.startswith(prefix)), None)
        if part is None:
            renamed[name] = tensor
        elif part in wanted:
            renamed[wanted[part] + name.removeprefix(there[part])] = tensor
    return renamed, tuple(prefix for part, prefix in wanted.items() if part not in there)


def _added_blocks(model: Recognizer, tensors: dict[str, Tensor]) -> tuple[str, ...]:
    """Return the prefixes of the residual blocks that ``tensors`` lack, each made to pass on what it gets.

    With its last norm at nought such a block adds nothing to its input, which a ReLU before it has passed already: of
    another activation a second pass would change it.
    """
    added = []
    for name, block in model.named_modules():
        if _may_be_identity(block) and not any(key.startswith(f"{name}.") for key in tensors):
            last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
            added.append(f"{name}.")
    return tuple(added)


def _may_be_identity(block: nn.Module) -> bool:
    if not isinstance(block, BasicBlock | Bottleneck) or block.downsample is not None:
        return False
    return isinstance(block.act3 if isinstance(block, Bottleneck) else block.act2, nn.ReLU)


def _fitted(
    name: str, ours: Tensor, theirs: Tensor, shared: list[tuple[int, int]], sizes: tuple[int, int], path: Path
) -> Tensor:
    """Return ``theirs`` in the shape of ``ours``: equal, or with the rows of classes matched."""
    if _BY_CLASS.fullmatch(name) and ours.shape[1:] == theirs.shape[1:]:
        extra = ours.shape[0] - sizes[0]
        target, source = zip(*([(0, 0), *shared]), strict=True)
        fitted = ours.clone()
        fitted[list(target)] = theirs[list(source)].to(fitted.dtype)
        if extra:  # the start symbol's
            fitted[-1] = theirs[-1]
        return fitted
    if ours.shape != theirs.shape:
        raise HangulOcrError(f"{path}: {name} is {tuple(theirs.shape)}, the settings want {tuple(ours.shape)}")
    return theirs.to(ours.dtype)


def require_alphabet(path: Path, alphabet: Alphabet) -> None:
    """Raise ``HangulOcrError`` if the checkpoint's alphabet is not ``alphabet``."""
    theirs = read_header(path).get("alphabet", "")
    more, fewer = set(theirs) - set(alphabet.characters), set(alphabet.characters) - set(theirs)
    if theirs != alphabet.characters:
        raise HangulOcrError(
            f"{path}: its alphabet differs ({len(more)} characters more, {len(fewer)} fewer, or in another order); "
            "start a new run with --init-from, which carries the shared characters over"
        )


def _load_strictly(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise HangulOcrError(f"{path}: does not fit its own settings ({str(error)[:160]}); train again") from None


def _difference(ours: dict, theirs: dict) -> str:
    names = sorted(set(ours) ^ set(theirs))
    return f"{len(names)} tensors differ, first {names[0]}"
