"""What the notebooks look at on the way: crops, fonts, folds, settings, and what a model reads."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hangul_ocr.data.crops import LmdbCrops
from hangul_ocr.data.dacon import TRAIN, Competition, ImageFiles
from hangul_ocr.data.folds import conflicting_twins, find_groups
from hangul_ocr.data.images import decode_image
from hangul_ocr.data.lmdb_store import LEFT_OUT_FILE, LmdbReader, matches
from hangul_ocr.data.lmdb_writer import write_lmdb
from hangul_ocr.data.sample import LeftOut, Sample
from hangul_ocr.data.sources import import_samples
from hangul_ocr.data.survey import survey_files, survey_store
from hangul_ocr.data.tables import read_table
from hangul_ocr.evaluation.labels import odd_labels, odd_shapes
from hangul_ocr.evaluation.metrics import exact_matches
from hangul_ocr.evaluation.pictures import groups_wall
from hangul_ocr.hangul import is_syllable, ksx1001_syllables
from hangul_ocr.inference.predict import CropFiles, predictions_frame, read_crops
from hangul_ocr.models.folding import load_for_reading
from hangul_ocr.results import RESCORED, UNREADABLE, crop_or_none, disputed
from hangul_ocr.settings import Settings
from hangul_ocr.steps import Prepared
from hangul_ocr.synthesis.competition import training_stream_sources
from hangul_ocr.synthesis.fonts import find_fonts
from hangul_ocr.synthesis.renderer import Renderer
from hangul_ocr.synthesis.stream import SyntheticCrops
from hangul_ocr.synthesis.style import EFFECTS, Style
from hangul_ocr.synthesis.words import WordSource, load_words
from hangul_ocr.workspace import Workspace

ODD_COLUMNS = ["img_path", "text", "oddity", "detail"]
TWINS = "looks like another crop with another label"


def crop_facts(competition: Competition) -> pd.DataFrame:
    """Return ``img_path,text`` (``source,group``) of the train crops in file order, with ``survey_files``'s facts."""
    files = ImageFiles(competition.folder)
    facts = survey_files([files.find(path) for path in competition.train["img_path"]])
    told = [name for name in ("img_path", "text", "source", "group") if name in competition.train]
    return competition.train[told].reset_index(drop=True).join(facts)


def labels_as_written(competition: Competition) -> list[str]:
    """Return the labels of train.csv before they are brought to NFC, in file order."""
    return read_table(competition.folder / TRAIN)[competition.columns.text].tolist()


def odd_rows(competition: Competition, facts: pd.DataFrame) -> pd.DataFrame:
    """Return ``img_path,text,oddity,detail`` of the rows to look at: labels, shapes, files, twins labelled otherwise.

    ``facts`` is the table of :func:`crop_facts`.
    """
    whole = facts[facts["fault"] == ""].reset_index(drop=True)
    found = [_named(odd_labels(labels_as_written(competition)), facts)]
    found.append(_named(odd_shapes(whole["text"], whole["width"], whole["height"]), whole))
    found.append(facts.loc[facts["fault"] != "", ["img_path", "text", "fault"]].rename(columns={"fault": "detail"}))
    found[-1].insert(2, "oddity", "unreadable image")
    twins = conflicting_twins(as_fold_table(whole))
    others = twins["twin"] + " " + twins["twin_text"]
    found.append(twins.rename(columns={"key": "img_path"}).assign(oddity=TWINS, detail=others))
    return pd.concat([part[ODD_COLUMNS] for part in found], ignore_index=True)


def _named(odd: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    return odd.assign(img_path=facts["img_path"].to_numpy()[odd["row"].to_numpy(int)])


def as_fold_table(facts: pd.DataFrame) -> pd.DataFrame:
    """Return the readable crops of :func:`crop_facts` as ``folds.make_folds`` takes them."""
    return facts[facts["fault"] == ""].rename(columns={"img_path": "key"})


def group_table(facts: pd.DataFrame, most: int = 8) -> pd.DataFrame:
    """Return the ``most`` largest groups of crops that belong together: ``group,crops,labels,why``."""
    table = as_fold_table(facts)
    groups = find_groups(table).merge(table[["key", "text"]], on="key", validate="one_to_one")
    joined = groups[groups["why"] != ""].groupby("group", sort=False)
    rows = joined.agg(
        crops=("key", "size"), labels=("text", lambda texts: " · ".join(dict.fromkeys(texts))), why=("why", "first")
    )
    return rows.sort_values("crops", ascending=False, kind="stable").head(most).reset_index()


def group_pictures(competition: Competition, facts: pd.DataFrame, groups: pd.DataFrame, most: int = 8) -> Figure:
    """Return a wall of the groups of :func:`group_table`, up to ``most`` crops of each."""
    table = as_fold_table(facts)
    members = find_groups(table).merge(table[["key", "text"]], on="key", validate="one_to_one")
    parts = [members[members["group"] == group].head(most) for group in groups["group"]]
    names = [f"{row.crops:,} crops, {row.why}, first {row.group}" for row in groups.itertuples()]
    images = [open_crops(competition, part["key"]) for part in parts]
    return groups_wall(images, [part["text"].tolist() for part in parts], names, most)


def source_crops(facts: pd.DataFrame, name: str, lmdbs: Sequence[str | Path] = (), most: int = 2000) -> pd.DataFrame:
    """Return ``source,text,width,height`` of the competition's readable crops and of up to ``most`` of each LMDB.

    The competition's are called ``name``, or by its column ``source`` where it has one.
    """
    whole = facts[facts["fault"] == ""]
    tables = [whole[["text", "width", "height"]].assign(source=whole.get("source", name))]
    for path in map(Path, lmdbs):
        reader = LmdbReader(path.expanduser())
        tables.append(survey_store(reader, _spread(len(reader), most)).assign(source=path.stem))
    return pd.concat(tables, ignore_index=True)


def try_import(source: str, paths: Sequence[Path | str], most: int = 500) -> tuple[pd.DataFrame, list[Sample]]:
    """Import the first ``most`` records of a data set without writing anything: what came of them, and the samples.

    The table counts records: ``kept``, and those left out by reason, each with an example. Raises ``HangulOcrError``
    for a source or layout that is unknown.
    """
    items = list(itertools.islice(import_samples(source, paths), most))
    samples = [item for item in items if isinstance(item, Sample)]
    left_out = pd.DataFrame([(item.reason, item.key) for item in items if isinstance(item, LeftOut)])
    rows = [("kept", len(samples), samples[0].key if samples else "")]
    if len(left_out):
        rows += [(reason, len(part), part[1].iloc[0]) for reason, part in left_out.groupby(0)]
    return pd.DataFrame(rows, columns=["record", "count", "such as"]).set_index("record"), samples


def sample_crops(samples: Sequence[Sample], most: int = 18) -> tuple[list[np.ndarray], list[str]]:
    """Return up to ``most`` crops spread over ``samples``, and their labels."""
    chosen = [samples[row] for row in _spread(len(samples), most)]
    return [decode_image(sample.image) for sample in chosen], [sample.text for sample in chosen]


def open_crops(competition: Competition, paths: Sequence[str]) -> list[np.ndarray]:
    """Return the competition's crops at these paths as (H, W, 3) uint8 RGB; grey squares for what cannot be read."""
    files = ImageFiles(competition.folder)
    source = CropFiles(list(paths), [files.find(path) for path in paths])
    return [source.crop(i, np.random.default_rng(i)).image for i in range(len(source))]


def crop_images(reader: LmdbReader, keys: Sequence[str]) -> list[np.ndarray]:
    """Return the crops with these keys as (H, W, 3) uint8 RGB; a grey tile for one whose bytes are no whole image."""
    found = [crop_or_none(reader, key) for key in keys]
    return [UNREADABLE if image is None else image for image in found]


def crop_fetcher(reader: LmdbReader) -> Callable[[Sequence[str]], list[np.ndarray]]:
    """Return a function that gives the crops of ``reader`` with the keys asked for."""
    return functools.partial(crop_images, reader)


def disputed_crops(members: pd.DataFrame, test: LmdbReader, most: int = 15) -> tuple[list[np.ndarray], list[str]]:
    """Return up to ``most`` crops on which the fold models disagree, captioned ``first / second → the ensemble``.

    ``members`` is ``results.load_members``'s table. Both lists are empty where all agree, or with a single model.
    """
    rows = spread(disputed(members), most)
    own = rows[[name for name in rows.columns if name.startswith("fold ")]].to_numpy().tolist()
    captions = [f"{' / '.join(texts)} → {joint}" for texts, joint in zip(own, rows[RESCORED], strict=True)]
    return crop_images(test, rows["img_path"]), captions


def changed_crops(changes: Path, test: LmdbReader, most: int = 15) -> tuple[list[np.ndarray], list[str]]:
    """Return up to ``most`` crops that two submissions read differently, captioned ``before → after``, surest first.

    ``changes`` is the file that ``steps.hand_in`` leaves; both lists are empty without one, or without such crops.
    """
    table = read_table(changes) if changes.is_file() else pd.DataFrame()
    stored = set(test.keys())
    known = [row for row in table.iloc[::-1].to_dict("records") if row["img_path"] in stored][:most]
    captions = [f"{row['before']} → {row['after']}" for row in known]
    return crop_images(test, [row["img_path"] for row in known]), captions


def spread(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return up to ``count`` rows spread evenly over ``table``."""
    return table.iloc[_spread(len(table), count)]


def _spread(size: int, count: int) -> list[int]:
    return np.unique(np.linspace(0, size - 1, min(count, size)).astype(int)).tolist() if size else []


def read_some(checkpoint: Path, reader: LmdbReader, count: int) -> pd.DataFrame:
    """Let a model read ``count`` crops spread over a store: ``img_path,text,prediction,confidence,correct``."""
    rows = _spread(len(reader), count)
    samples = [reader[row] for row in rows]
    readings = read_crops([load_for_reading(checkpoint)], LmdbCrops(reader, rows), 1, progress="read")
    found = predictions_frame([sample.key for sample in samples], readings).rename(columns={"text": "prediction"})
    texts = [sample.text for sample in samples]
    return found.assign(text=texts, correct=exact_matches(texts, found["prediction"].tolist()))


def font_table(competition: Competition) -> pd.DataFrame:
    """Return the faces found: ``family,style,kind,syllables`` (of KS X 1001's 2,350) and whether training uses them."""
    used = {(face.path, face.index, face.axes) for face in training_stream_sources(competition.folder)[0]}
    rows = [
        {
            "family": face.family,
            "style": face.style,
            "kind": face.kind,
            "syllables": sum(map(is_syllable, face.covers)),
            "for training": (face.path, face.index, face.axes) in used,
        }
        for face in find_fonts()
    ]
    return pd.DataFrame(rows)


def font_specimens(text: str, most: int = 24) -> tuple[list[np.ndarray], list[str]]:
    """Return ``text`` drawn plainly in each face found, and the faces' names."""
    faces = find_fonts()
    faces = [faces[i] for i in _spread(len(faces), most)]
    words = WordSource(load_words())
    drawn = [
        Renderer([face], words, Style.plain()).render_text(text, np.random.default_rng(0), vertical=False)
        for face in faces
    ]
    return [crop.image for crop in drawn], [f"{face.family} {face.style}" for face in faces]


#: What :func:`strength_specimens` turns up and down, and the effect that must be on for it to show.
STRENGTHS = {
    "rotation": "",
    "perspective": "",
    "shear": "",
    "blur_strength": "blur",
    "grain_strength": "grain",
}


def effect_specimens(renderer: Renderer, text: str, seed: int = 0) -> tuple[list[np.ndarray], list[str]]:
    """Return ``text`` drawn plainly and under each effect alone, in the renderer's faces, and the effects' names."""
    styles = {"plain": Style.plain((48, 48))}
    styles |= {effect: styles["plain"].only(effect) for effect in EFFECTS}
    return [_specimen(renderer, style, text, seed) for style in styles.values()], list(styles)


def strength_specimens(
    renderer: Renderer, text: str, factors: Sequence[float] = (0.5, 1, 2, 4), seed: int = 0
) -> tuple[list[np.ndarray], list[str]]:
    """Return ``text`` with each of ``STRENGTHS`` at ``factors`` times the usual, a row for each, and captions."""
    usual, images, captions = Style.signs((48, 48)), [], []
    for name, effect in STRENGTHS.items():
        still = Style.plain((48, 48)).only(effect) if effect else Style.plain((48, 48))
        for factor in factors:
            style = dataclasses.replace(still, **{name: factor * getattr(usual, name)})
            images.append(_specimen(renderer, style, text, seed))
            captions.append(f"{name} × {factor:g}")
    return images, captions


def syllable_coverage(
    words: WordSource, seed: int = 0, counts: Sequence[int] = (1000, 4000, 16000, 64000)
) -> pd.DataFrame:
    """Return how many of KS X 1001's 2,350 syllables the first labels of a source hold, and a few still missing."""
    rng, missing, drawn, rows = np.random.default_rng(seed), set(ksx1001_syllables()), 0, []
    for count in sorted(counts):
        for _ in range(count - drawn):
            missing -= set(words.sample(rng))
        drawn = count
        rows.append((f"{count:,}", f"{2350 - len(missing):,}", len(missing), " ".join(sorted(missing)[:8])))
    return pd.DataFrame(rows, columns=["labels", "syllables", "missing", "such as"]).set_index("labels")


def _specimen(renderer: Renderer, style: Style, text: str, seed: int) -> np.ndarray:
    drawn = Renderer(renderer.faces, renderer.words, style)
    # Colours of the middle range: shadows, stripes and glow would not show on black and white.
    return drawn.render_text(text, np.random.default_rng((seed, 5)), vertical=False).image


def write_synthetic(workspace: Workspace, crops: SyntheticCrops, count: int) -> Path:
    """Write the first ``count`` synthetic crops, with their characters' centres, to ``output/data/synthetic.lmdb``."""
    path = workspace.scratch / "data" / "synthetic.lmdb"
    settings = {"synthetic": count, "seed": crops.renderer.seed}
    if not matches(path, settings):
        write_lmdb(path, _synthetic_samples(crops, count), alphabet=None, settings=settings, total=count)
    return path


def _synthetic_samples(crops: SyntheticCrops, count: int) -> Iterator[Sample]:
    rng = np.random.default_rng(0)
    for index in range(count):
        crop = crops.crop(index, rng)
        image = cv2.imencode(".png", cv2.cvtColor(crop.image, cv2.COLOR_RGB2BGR))[1].tobytes()
        yield Sample(crop.key, image, crop.text, "synthetic", facts={"centres": crop.centres.round(4).tolist()})


def left_out_table(prepared: Prepared) -> pd.DataFrame:
    """Return every record that a store did not take: ``store,key,reason,detail``."""
    stores = {"train": prepared.train, "test": prepared.test}
    tables = [
        read_table(reader.path / LEFT_OUT_FILE).assign(store=name)
        for name, reader in stores.items()
        if reader is not None
    ]
    return pd.concat(tables, ignore_index=True)[["store", "key", "reason", "detail"]]


def folds_overview(prepared: Prepared) -> pd.DataFrame:
    """Return for each fold its rows, groups, share of tall crops and of labels with a space, and label lengths."""
    metas = pd.DataFrame(prepared.train.metas())
    facts = pd.DataFrame(
        {
            "key": metas["key"],
            "tall": metas["height"] > metas["width"],
            "space": [" " in text for text in prepared.train.texts()],
            "length": [len(text) for text in prepared.train.texts()],
        }
    )
    rows = prepared.folds.merge(facts, on="key", validate="one_to_one")
    lengths = pd.cut(rows["length"], [0, 1, 2, 3, 4, 6, np.inf], labels=["1", "2", "3", "4", "5 to 6", "7 or more"])
    overview = rows.groupby("fold").agg(
        rows=("key", "size"), groups=("group", "nunique"), tall=("tall", "mean"), with_space=("space", "mean")
    )
    return overview.join(pd.crosstab(rows["fold"], lengths, normalize="index").add_prefix("length "))


def settings_table(settings: Settings) -> pd.DataFrame:
    """Return the two training stages side by side, and the network's settings in a column of their own."""
    parts = {
        "pretraining": settings.pretraining,
        "fine-tuning of a fold": settings.fine_tuning,
        "network": settings.model,
    }
    columns = {name: pd.Series(dataclasses.asdict(part), dtype=object) for name, part in parts.items()}
    return pd.DataFrame(columns).fillna("")
