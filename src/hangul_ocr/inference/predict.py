"""Reading crops with one or several recognisers: N-best strings, and every string's score under every model."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from hangul_ocr.data.batches import Group, make_group, make_groups, of_one_shape
from hangul_ocr.data.crops import Crop, CropSource, crop_or_none
from hangul_ocr.data.dacon import ImageFiles
from hangul_ocr.data.images import SUFFIXES, UnreadableImage, decode_image
from hangul_ocr.data.tables import read_table
from hangul_ocr.hangul import Alphabet, HangulOcrError, normalise
from hangul_ocr.inference.decoding import fused
from hangul_ocr.inference.ensemble import Reading, combine, finite_scores, with_stand_ins
from hangul_ocr.inference.parts import Parts
from hangul_ocr.inference.threads import Made, Piece, in_threads
from hangul_ocr.inference.views import PLAIN, SMALLER, view
from hangul_ocr.models.language import Fusion
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import SURE, ModelSettings
from hangul_ocr.workspace import atomic_write_text, cpu_count, keep_free_memory, make_accelerator

BLANK = np.full((32, 32, 3), 127, np.uint8)
CHUNK = 512
LARGEST_BATCH = 128


@dataclass(frozen=True)
class CropFiles:
    """Image files as a crop source, each under the name it was given.

    ``files`` holds None for a file that is not there; ``unreadable`` fills with reasons, by position, as they are read.
    """

    names: list[str]
    files: list[Path | None]
    unreadable: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def crop(self, index: int, rng: np.random.Generator) -> Crop:
        """Return the ``index``-th crop; one that cannot be read is an empty grey square."""
        name, file = self.names[index], self.files[index]
        try:
            if file is None:
                raise UnreadableImage("no such file")
            return Crop(name, decode_image(file.read_bytes()), "")
        except (OSError, UnreadableImage) as error:
            self.unreadable[index] = str(error)
            return Crop(name, np.full((32, 32, 3), 128, np.uint8), "")

    def states(self) -> list[str]:
        """Return for each file its name, size and date, which change with its content."""
        return [f"{name} {_state(file)}" for name, file in zip(self.names, self.files, strict=True)]


def _state(file: Path | None) -> str:
    try:
        found = file.stat() if file else None
    except OSError:
        found = None
    return f"{found.st_size} {found.st_mtime_ns}" if found else "gone"


@dataclass(frozen=True)
class FileParts(Parts):
    """The parts of a reading of image files, and beside them which files could not be read: they are not read again."""

    source: CropFiles

    @property
    def _unreadable(self) -> Path:
        return self.folder / "unreadable.json"

    def load(self, number: int, size: int) -> list[Reading] | None:
        """Return the readings of part ``number`` if they are there, and let ``source`` know what was not readable."""
        readings = super().load(number, size) if self._unreadable.is_file() else None
        if readings is not None:
            kept = json.loads(self._unreadable.read_text(encoding="utf-8"))
            self.source.unreadable.update({int(index): reason for index, reason in kept.items()})
        return readings

    def save(self, number: int, readings: list[Reading]) -> None:
        """Keep the readings of part ``number``, and before them what was not readable up to there."""
        # A copy: the next files are decoded, and may be added, meanwhile.
        atomic_write_text(self._unreadable, json.dumps(dict(self.source.unreadable), ensure_ascii=False))
        super().save(number, readings)


def find_crops(inputs: Sequence[str]) -> CropFiles:
    """Return the crops that ``inputs`` name: image files, folders of them, and CSV files with a column ``img_path``.

    Names stay exactly as given; those of a folder's images begin with the folder as given, in sorted order, and those
    in a CSV are relative to it. Raises ``HangulOcrError`` if there is nothing to read.
    """
    found = [pair for given in inputs for pair in _crops_of(given)]
    if not found:
        raise HangulOcrError(f"{', '.join(inputs)}: no images there (looked for {', '.join(sorted(SUFFIXES))})")
    names, files = zip(*found, strict=True)
    return CropFiles(list(names), list(files))


def _crops_of(given: str) -> Iterator[tuple[str, Path | None]]:
    path = Path(given).expanduser()
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
            yield os.path.join(given, file.relative_to(path)), file
    elif not path.is_file():
        raise HangulOcrError(f"{given}: no such file or folder; name images, folders of images or a CSV")
    elif path.suffix.lower() == ".csv":
        yield from _crops_of_table(path)
    else:
        yield given, path


def _crops_of_table(path: Path) -> Iterator[tuple[str, Path | None]]:
    table = read_table(path)
    if "img_path" not in table:
        raise HangulOcrError(
            f"{path}: no column img_path (found: {', '.join(table.columns)}); rename the one with paths"
        )
    files = ImageFiles(path.parent)
    for name in table["img_path"]:
        yield name, files.find(name)


def read_files(
    models: Sequence[Recognizer],
    source: CropFiles,
    candidates: int,
    fusion: Fusion | None = None,
    parts: FileParts | None = None,
    scout: Recognizer | None = None,
    sure: float = SURE,
) -> tuple[pd.DataFrame, list[Reading]]:
    """Return ``img_path,text,confidence`` for every file of ``source``, and the readings behind it.

    A file that cannot be read has an empty text and confidence 0. Raises ``HangulOcrError`` if none can be read.
    With ``parts`` it goes on where it was stopped; ``scout`` and ``sure`` are those of :func:`read_crops`.
    """
    readings = read_crops(models, source, candidates, fusion=fusion, parts=parts, scout=scout, sure=sure)
    if len(source.unreadable) == len(source):
        first = f"{source.names[0]}: {source.unreadable[0]}"
        raise HangulOcrError(f"none of the {len(source)} images can be read (first {first}); check the paths and files")
    for index in source.unreadable:
        readings[index] = Reading([""], np.zeros((len(models), 1)), [""] * len(models))
    table = predictions_frame(source.names, readings)
    table.loc[sorted(source.unreadable), "confidence"] = 0.0
    return table, readings


@torch.inference_mode()
def ctc_posteriors(model: Recognizer, image: np.ndarray) -> np.ndarray:
    """Return (T, classes): what a CTC recogniser sees at each time step of one crop (H, W, 3).

    Raises ``HangulOcrError`` for a recogniser with another decoder, which has no time steps.
    """
    if not hasattr(model.decoder, "log_probabilities"):
        raise HangulOcrError(f"the decoder {model.settings.decoder!r} has no time steps; choose decoder = 'ctc'")
    group = make_groups([Crop("0", image, "")], model.settings, model.alphabet)[0]
    device = next(model.parameters()).device
    features = model.eval().features(group.images.to(device))
    return model.decoder.log_probabilities(features)[0].exp().cpu().numpy()


def read_crops(
    models: Sequence[Recognizer],
    source: CropSource,
    candidates: int = 5,
    accelerator: Accelerator | None = None,
    progress: str = "reading",
    fusion: Fusion | None = None,
    views: Sequence[str] = (),
    parts: Parts | None = None,
    scout: Recognizer | None = None,
    sure: float = SURE,
) -> list[Reading]:
    """Return a :class:`Reading` for each crop of ``source``, in its order: the union of the models' N-best strings,
    scored by every model; with ``fusion``, found and weighed with it.

    ``views`` names for each model the view that it sees (default: all the crop as it is). With ``parts``, readings that
    are there are taken from there, and new ones kept there. A model alone, asked for one string, looks at its full size
    only where a cheaper look, by ``scout`` or at its own ``glance``, gave no string a probability of ``sure``; then
    both count as members.
    """
    accelerator = accelerator or make_accelerator()
    keep_free_memory()
    models = [model.to(accelerator.device).eval() for model in models]
    readers = list(zip(models, views or [PLAIN] * len(models), strict=True))
    first = _first_look(readers, scout and scout.to(accelerator.device).eval(), candidates, fusion)
    spans = _spans(source)
    found = {i: readings for i, span in enumerate(spans) if parts and (readings := parts.load(i, len(span)))}
    missing = [i for i in range(len(spans)) if i not in found]
    with tqdm(total=len(source), desc=progress, mininterval=1) as bar, fused(models, fusion):
        bar.update(sum(map(len, found.values())))
        for i, crops in zip(missing, _chunks(source, [spans[i] for i in missing]), strict=True):
            found[i] = _read_chunk(readers, crops, candidates, first, sure, accelerator)
            if parts:
                parts.save(i, found[i])
            bar.update(len(crops))
    readings = [reading for i in range(len(spans)) for reading in found[i]]
    return readings if fusion is None else [_with_prior(reading, fusion) for reading in readings]


def _with_prior(reading: Reading, fusion: Fusion) -> Reading:
    return replace(reading, prior=np.array([fusion.score(text) for text in reading.strings]))


def _spans(source: CropSource) -> list[range]:
    return [range(i, min(i + CHUNK, len(source))) for i in range(0, len(source), CHUNK)]


def _chunks(source: CropSource, spans: Sequence[range]) -> Iterator[list[Crop]]:
    """Yield the crops of each span, keyed by their place in it; the next is decoded while this one is read."""
    with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(cpu_count()) as decoders:
        # One chunk ahead and no further: a whole test set of decoded crops would fill the memory.
        waiting = [ahead.submit(_load, source, span, decoders) for span in spans[:1]]
        for span in spans[1:]:
            waiting.append(ahead.submit(_load, source, span, decoders))
            yield waiting.pop(0).result()
        yield from (chunk.result() for chunk in waiting)


def _load(source: CropSource, span: range, decoders: ThreadPoolExecutor) -> list[Crop]:
    """Return the crops keyed by their place; one that cannot be read is blank, since each needs an answer."""
    # A task for each image would cost as much as its decoding.
    parts = decoders.map(lambda part: _decoded(source, part), (span[i : i + 16] for i in range(0, len(span), 16)))
    crops = [crop for part in parts for crop in part]
    return [Crop(str(place), BLANK if crop is None else crop.image, "") for place, crop in enumerate(crops)]


def _decoded(source: CropSource, part: range) -> list[Crop | None]:
    rng = np.random.default_rng(part.start)  # stored crops draw nothing from it, and one for each takes its time
    return [crop_or_none(source, i, rng) for i in part]


#: A model and the name of the view that it sees.
Reader = tuple[Recognizer, str]
#: A model, and the settings by which crops are made ready for it: at its own size, or at that of its first look.
Look = tuple[Recognizer, ModelSettings]
#: For each batch: the places of its crops in the chunk, and the features that a model sees there.
Seen = list[tuple[list[int], torch.Tensor]]
#: A model's strings for each place, with their log probabilities, best first.
Found = dict[int, list[tuple[str, float]]]


def _read_chunk(
    readers: Sequence[Reader],
    crops: list[Crop],
    candidates: int,
    first: Look | None,
    sure: float,
    accelerator: Accelerator,
) -> list[Reading]:
    """Return a reading for each crop: in two looks if there is a first one, else by all models that see everything."""
    if first:
        model = readers[0][0]
        return _read_in_two_looks(first, (model, model.settings), crops, sure, accelerator)
    batches = _batches(readers, crops, accelerator)
    models = [model for model, _ in readers]
    seen = [_features(model, batches[_input_kind(model, name)], accelerator) for model, name in readers]
    with accelerator.autocast():
        lists = [_candidates(model, features, candidates) for model, features in zip(models, seen, strict=True)]
    return _joined(models, seen, lists, len(crops), accelerator)


def _first_look(
    readers: Sequence[Reader], scout: Recognizer | None, candidates: int, fusion: Fusion | None
) -> Look | None:
    """Return who looks first, ``scout`` or the model at its smaller size; None where all see everything.

    A first look may decide only where one model is asked for one string, and nothing else weighs in on it.
    """
    (model, name), several = readers[0], len(readers) > 1
    if several or name != PLAIN or fusion is not None or candidates > 1 or model.settings.joint_share:
        return None
    if scout:
        return scout, scout.settings
    return (model, model.settings.glancing) if model.settings.glance else None


def _read_in_two_looks(
    first: Look, close: Look, crops: Sequence[Crop], sure: float, accelerator: Accelerator
) -> list[Reading]:
    """Return a reading for each crop: that of the first look where it is ``sure``, or of both looks together."""
    seen, strings = _look(first, crops, accelerator)
    found = {place: Reading([text], np.array([[value]]), [text]) for place, [(text, value)] in strings.items()}
    doubtful = [place for place in range(len(crops)) if not _is_sure(strings[place][0][1], sure)]
    seen_closely, close_strings = _look(close, [crops[place] for place in doubtful], accelerator)
    lists = [close_strings, {i: strings[place] for i, place in enumerate(doubtful)}]
    models, features = [close[0], first[0]], [seen_closely, _only(seen, doubtful)]
    found |= zip(doubtful, _joined(models, features, lists, len(doubtful), accelerator), strict=True)
    return [found[place] for place in range(len(crops))]


def _look(look: Look, crops: Sequence[Crop], accelerator: Accelerator) -> tuple[Seen, Found]:
    """Return what a look gives: features, and the greedy string of each crop, by its place among ``crops``."""
    model, settings = look
    numbered = [replace(crop, key=str(i)) for i, crop in enumerate(crops)]

    def read(group: Group) -> tuple[list[int], torch.Tensor, list[tuple[str, float]]]:
        features = model.features(group.images.to(accelerator.device))
        return _places(group), features, model.greedy_from(features)

    batches = _each_group(read, _groups(numbered, settings, model.alphabet, accelerator), accelerator)
    found = {place: [pair] for places, _, pairs in batches for place, pair in zip(places, pairs, strict=True)}
    return [(places, features) for places, features, _ in batches], found


def _places(group: Group) -> list[int]:
    return [int(key) for key in group.keys]


def _is_sure(log_probability: float, sure: float) -> bool:
    """Tell whether a string may stand; one of no numbers (NaN) or that cannot be, never."""
    return math.isfinite(log_probability) and math.exp(log_probability) >= sure


def _only(seen: Seen, wanted: Sequence[int]) -> Seen:
    """Return what was seen of the ``wanted`` places alone, numbered in their order."""
    number = {place: i for i, place in enumerate(wanted)}
    rows = [[row for row, place in enumerate(places) if place in number] for places, _ in seen]
    kept = [(places, features, at) for (places, features), at in zip(seen, rows, strict=True) if at]
    return [([number[places[row]] for row in at], features[at]) for places, features, at in kept]


def _joined(
    models: Sequence[Recognizer], seen: Sequence[Seen], lists: Sequence[Found], count: int, accelerator: Accelerator
) -> list[Reading]:
    """Return the readings of ``count`` crops: every model scores the union of what all found, their ``lists``."""
    unions = [_union([rows[i] for rows in lists]) for i in range(count)]
    scores = [_scores(*member, unions, accelerator) for member in zip(models, seen, lists, strict=True)]
    own = [[rows[i][0][0] for rows in lists] for i in range(count)]
    return [Reading(unions[i], np.array([rows[i] for rows in scores]), own[i]) for i in range(count)]


def _batches(readers: Sequence[Reader], crops: list[Crop], accelerator: Accelerator) -> dict[tuple, list[Group]]:
    """Return the crops in batches of one shape for each kind of input: members may differ in theirs."""
    batches: dict[tuple, list[Group]] = {}
    for model, name in readers:
        if _input_kind(model, name) not in batches:
            seen = [view(crop, name) for crop in crops]
            groups = _groups(seen, _input_settings(model, name), model.alphabet, accelerator)
            batches[_input_kind(model, name)] = groups
    return batches


def _groups(
    crops: Sequence[Crop], settings: ModelSettings, alphabet: Alphabet, accelerator: Accelerator
) -> list[Group]:
    """Return ``crops`` in batches of one shape, on a CPU enough of them for all threads."""
    threads = torch.get_num_threads() if accelerator.device.type == "cpu" else 1
    batches = of_one_shape(crops, settings, min(LARGEST_BATCH, max(16, math.ceil(len(crops) / threads))))
    return in_threads(lambda batch: make_group(batch, settings, alphabet), batches, torch.device("cpu"))


def _input_settings(model: Recognizer, name: str) -> ModelSettings:
    return model.settings.glancing if name == SMALLER else model.settings


def _input_kind(model: Recognizer, name: str) -> tuple:
    """Return what decides how crops become tensors."""
    settings = _input_settings(model, name)
    return name, settings.short_side, settings.stretch, settings.fixed_width, settings.grey


def _features(model: Recognizer, batches: Sequence[Group], accelerator: Accelerator) -> Seen:
    def see(group: Group) -> tuple[list[int], torch.Tensor]:
        return _places(group), model.features(group.images.to(accelerator.device))

    return _each_group(see, batches, accelerator)


def _each_group(read: Callable[[Group], Made], batches: Sequence[Group], accelerator: Accelerator) -> list[Made]:
    """Return what ``read``, which runs one network, makes of each batch, in an order of its own."""
    # The largest first, lest one thread read it while the others have nothing left.
    ordered = sorted(batches, key=lambda group: -group.images.numel())
    wide = [group for group in ordered if not _is_tall(group)]
    tall = [group for group in ordered if _is_tall(group)]
    # One kind after the other: a network that turns its strides for text that runs down cannot read both at once.
    return _each(read, wide, accelerator) + _each(read, tall, accelerator)


def _is_tall(group: Group) -> bool:
    _, height, width, _ = group.images.shape
    return height > width


def _each(read: Callable[[Piece], Made], pieces: Sequence[Piece], accelerator: Accelerator) -> list[Made]:
    """Return what ``read`` makes of each piece, where nothing is learnt and numbers are as short as they may be."""

    @torch.inference_mode()
    def work(piece: Piece) -> Made:
        with accelerator.autocast():
            return read(piece)

    return in_threads(work, pieces, accelerator.device)


def _candidates(model: Recognizer, seen: Seen, count: int) -> Found:
    found: Found = {}
    for places, features in seen:
        # A model of which no numbers are left (NaN) has no candidates; the others still have theirs.
        rows = [row or [("", -math.inf)] for row in model.candidates_from(features, count)]
        found.update(zip(places, rows, strict=True))
    return found


def _scores(
    model: Recognizer, seen: Seen, own: Found, unions: list[list[str]], accelerator: Accelerator
) -> dict[int, list[float]]:
    """Return ``model``'s log P of each string of ``unions``; of its ``own`` candidates it is known already."""

    def score(batch: tuple[list[int], torch.Tensor]) -> dict[int, list[float]]:
        places, features = batch
        rows = _batch_scores(model, features, [own[place] for place in places], [unions[place] for place in places])
        return dict(zip(places, rows, strict=True))

    return {place: row for rows in _each(score, seen, accelerator) for place, row in rows.items()}


def _batch_scores(
    model: Recognizer, features: torch.Tensor, own: list[list[tuple[str, float]]], unions: list[list[str]]
) -> list[list[float]]:
    known = [dict(row) for row in own]
    others = [[text for text in union if text not in row] for union, row in zip(unions, known, strict=True)]
    for row, texts, values in zip(known, others, model.score_from(features, others), strict=True):
        row.update(zip(texts, values, strict=True))
    scores = [[row[text] for text in union] for union, row in zip(unions, known, strict=True)]
    return [with_stand_ins(union, row, model.alphabet) for union, row in zip(unions, scores, strict=True)]


def _union(rows: Sequence[list[tuple[str, float]]]) -> list[str]:
    return list(dict.fromkeys(text for row in rows for text, _ in row))


def predictions_frame(keys: Sequence[str], readings: Sequence[Reading]) -> pd.DataFrame:
    """Return ``img_path,text,confidence`` for the models' joint choice."""
    chosen = [combine(reading) for reading in readings]
    return pd.DataFrame(
        {
            "img_path": list(keys),
            "text": [normalise(text) for text, _ in chosen],
            "confidence": [round(confidence, 6) for _, confidence in chosen],
        }
    )


def save_candidates(path: Path, keys: Sequence[str], readings: Sequence[Reading]) -> None:
    """Write N-best lists as JSON lines: ``{"img_path": ..., "candidates": [[text, log_probability], ...]}``."""
    lines = []
    for key, reading in zip(keys, readings, strict=True):
        mean = finite_scores(reading.scores).mean(axis=0)
        order = np.argsort(-(mean if reading.prior is None else mean + reading.prior), kind="stable")
        ranked = [[reading.strings[i], round(float(mean[i]), 5)] for i in order]
        lines.append(json.dumps({"img_path": key, "candidates": ranked}, ensure_ascii=False))
    atomic_write_text(path, "\n".join(lines) + "\n")
