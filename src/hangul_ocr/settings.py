"""Every choice of a run as frozen dataclasses, and presets: ``smoke``, ``quick``, ``scratch``, ``colab``, ``full``."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hangul_ocr.hangul import HangulOcrError

NUMBER_TYPES = ("auto", "float32", "bfloat16", "float16")
#: A first, cheap look at a crop decides where its string has at least this probability (benchmarks/LOG.md).
SURE = 0.8


#: Clova AI's extractors and how many time steps each gives for a long side in pixels.
CLOVA_STEPS = {
    "clova_vgg": lambda long_side: long_side // 4 - 1,
    "clova_rcnn": lambda long_side: long_side // 4 + 1,
    "clova_resnet": lambda long_side: long_side // 4 + 1,
}


@dataclass(frozen=True)
class ModelSettings:
    """The network. ``short_side`` is a crop's height (its width when the text runs down), in pixels.

    Along the text it is drawn out by ``stretch``, which gives the network more time steps for each character.
    With ``fixed_width`` every crop, whatever its ratio, is squeezed to ``short_side`` x ``fixed_width``. Pixels are
    brought to zero mean and unit spread by ``crop``, or from 0..255 to -1..1 (``fixed``). Without ``stem_pool`` a
    ResNet halves its map once less at the start and once more later: finer strokes, dearer. ``glance`` is a smaller
    short side (0: none) at which a model alone looks at crops first, and at full size, too, where it is not sure.
    ``backbone`` is a timm name or one of Clova AI's: clova_vgg, clova_rcnn, clova_resnet, whose sequence models are
    ``clova_bilstm`` and ``identity`` and whose attention is ``lstm_attention``.
    """

    rectifier: str = "none"
    backbone: str = "resnet10t"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    grey: bool = True
    short_side: int = 32
    glance: int = 0
    stretch: float = 1.0
    along_stride: int = 8
    across_stride: int = 8
    stem_pool: bool = True
    neck: str = "bilstm"
    hidden: int = 192
    decoder: str = "ctc"
    classifier: str = "compositional"
    joint_share: float = 0.0
    max_length: int = 25
    fixed_width: int = 0
    normalisation: str = "crop"

    def __post_init__(self) -> None:
        _check_types(self)
        _one_of("rectifier", self.rectifier, ("none", "tps"))
        _one_of("neck", self.neck, ("bilstm", "none", "clova_bilstm", "identity"))
        _one_of("decoder", self.decoder, ("ctc", "attention", "hybrid", "lstm_attention"))
        _one_of("classifier", self.classifier, ("compositional", "dense"))
        _one_of("normalisation", self.normalisation, ("crop", "fixed"))
        _at_least(self, 1, "short_side", "along_stride", "across_stride", "hidden", "max_length")
        _at_least(self, 0, "fixed_width")
        if not 0.5 <= self.stretch <= 4:
            _refuse("stretch", self.stretch, "from 0.5 to 4")
        if not 0 <= self.joint_share <= 1:
            _refuse("joint_share", self.joint_share, "from 0 to 1")
        unit = 32 if self.backbone in CLOVA_STEPS else 2 * self.along_stride
        if self.glance % unit or not 0 <= self.glance < self.short_side:
            _refuse("glance", self.glance, f"0, or less than short_side and a multiple of {unit}")
        if self.decoder == "lstm_attention" and self.classifier != "dense":
            _refuse("classifier", self.classifier, "dense, with decoder lstm_attention")
        if self.backbone in CLOVA_STEPS:
            if set(self.backbone_args) != {"output_channel"}:
                _refuse(
                    "backbone_args",
                    self.backbone_args,
                    f"{{'output_channel': 512}} or another width, with {self.backbone}",
                )
            if self.short_side % 32:
                _refuse("short_side", self.short_side, f"32 or a multiple of it, with {self.backbone}")
        elif self.short_side % (2 * self.along_stride):
            _refuse("short_side", self.short_side, f"a multiple of {2 * self.along_stride}, twice along_stride")
        elif self.fixed_width % self.along_stride:
            _refuse("fixed_width", self.fixed_width, f"0 or a multiple of {self.along_stride}, the along_stride")

    @property
    def glancing(self) -> ModelSettings:
        """These settings at the size of a first look; themselves without ``glance``."""
        return dataclasses.replace(self, short_side=self.glance, glance=0) if self.glance else self

    def time_steps(self, long_side: int) -> int:
        """Return how many positions along the text the network gives for crops of ``long_side`` pixels."""
        clova = CLOVA_STEPS.get(self.backbone)
        return clova(long_side) if clova else long_side // self.along_stride


@dataclass(frozen=True)
class LossWeights:
    """What is added to a decoder's own loss: known frames, label smoothing, the attention branch beside CTC."""

    alignment: float = 0.0
    smoothing: float = 0.0
    guidance: float = 0.0


PLAIN_LOSS = LossWeights()


@dataclass(frozen=True)
class TrainingSettings:
    """One training stage: it ends after ``steps``, or lands its schedule at ``seconds`` if that is sooner.

    Of the real crops ``join_share`` are joined to another, and rare characters are drawn more often by ``balance``
    (0 not at all, 1 inversely to their frequency). The rectifier and the backbone learn at ``backbone_rate`` times the
    learning rate, and each layer of the backbone at ``layer_decay`` times the rate of the one after it. All rates are
    multiplied by the share of the validation crops that are misread at the start, to the power of ``rate_by_error`` (0:
    not at all): weights that can read a competition's crops already need not move far. Without validation crops all
    count as misread, and never less than two in a hundred. ``glance_share`` of the blocks of steps show their crops at
    the network's ``glance``, if it has one.
    """

    steps: int = 1000
    seconds: float | None = None
    crops_per_step: int = 128
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 0.02
    clip: float = 5.0
    ema_decay: float = 0.998
    alignment_weight: float = 1.0
    label_smoothing: float = 0.0
    guidance_weight: float = 0.5
    augment: float = 1.0
    join_share: float = 0.0
    balance: float = 0.0
    backbone_rate: float = 1.0
    layer_decay: float = 1.0
    rate_by_error: float = 0.0
    synthetic_share: float = 0.0
    glance_share: float = 0.5
    validate_every: int = 250
    save_every: int = 250
    workers: int = 1
    number_type: str = "auto"

    def __post_init__(self) -> None:
        _check_types(self)
        _one_of("number_type", self.number_type, NUMBER_TYPES)
        _one_of("optimizer", self.optimizer, ("adamw", "muon"))
        _at_least(self, 1, "steps", "crops_per_step", "validate_every", "save_every")
        _at_least(self, 0, "workers", "weight_decay", "alignment_weight", "guidance_weight", "augment", "balance")
        _at_least(self, 0, "rate_by_error")
        for name in ("seconds", "learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                _refuse(name, value, "above 0")
        for name in ("warmup", "ema_decay", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                _refuse(name, getattr(self, name), "from 0 to below 1")
        for name in ("synthetic_share", "glance_share", "join_share", "backbone_rate", "layer_decay"):
            if not 0 <= getattr(self, name) <= 1:
                _refuse(name, getattr(self, name), "from 0 to 1")

    @property
    def loss_weights(self) -> LossWeights:
        """The weights of the loss's parts."""
        return LossWeights(self.alignment_weight, self.label_smoothing, self.guidance_weight)


@dataclass(frozen=True)
class DecodingSettings:
    """What is added to a string's log P(string | crop): nothing, unless a weight is set.

    ``language_weight`` times the log probability of a character n-gram model of the training labels,
    ``length_bonus`` for each character, ``lexicon_bonus`` for a string that stands in the text file ``lexicon``.
    """

    language_weight: float = 0.0
    language_order: int = 4
    length_bonus: float = 0.0
    lexicon: str = ""
    lexicon_bonus: float = 0.0

    def __post_init__(self) -> None:
        _check_types(self)
        _at_least(self, 0, "language_weight", "lexicon_bonus")
        _at_least(self, 1, "language_order")


@dataclass(frozen=True)
class Settings:
    """A whole run: the network, the shared pretraining stage, the fine-tuning of each fold, the folds, the reading.

    With ``start`` = ``shipped`` the folds begin from the weights that come with the package, whose network ``model``
    must be (with another decoder, what that has not in common starts fresh), and there is no pretraining. With
    ``continued`` the run's own pretraining begins from them, with ``scratch`` from noise, and the folds from it. The
    ``alphabet`` has what the training labels hold and the syllables of ``ksx1001`` (2,350), or ``all`` 11,172: a far
    larger output layer.

    ``extra_lmdbs`` are further stores of real crops to learn from: in pretraining ``real_share`` of all crops, beside
    the synthetic ones; in the fine-tuning of a fold ``extra_share`` of the real crops. They are never validated on.
    """

    preset: str = "quick"
    model: ModelSettings = field(default_factory=ModelSettings)
    pretraining: TrainingSettings = field(default_factory=TrainingSettings)
    fine_tuning: TrainingSettings = field(default_factory=TrainingSettings)
    folds: int = 3
    trained_folds: int = 3
    candidates: int = 5
    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    start: str = "scratch"
    alphabet: str = "ksx1001"
    seed: int = 0
    extra_lmdbs: list[str] = field(default_factory=list)
    real_share: float = 0.5
    extra_share: float = 0.25

    def __post_init__(self) -> None:
        _check_types(self)
        _one_of("start", self.start, ("scratch", "shipped", "continued"))
        _one_of("alphabet", self.alphabet, ("ksx1001", "all"))
        _at_least(self, 2, "folds")
        _at_least(self, 1, "trained_folds", "candidates")
        if self.trained_folds > self.folds:
            _refuse("trained_folds", self.trained_folds, f"at most the number of folds, {self.folds}")
        if not 0 <= self.seed < 2**32:
            _refuse("seed", self.seed, "from 0 to 4294967295")
        if not all(isinstance(path, str) and path.strip() for path in self.extra_lmdbs):
            _refuse("extra_lmdbs", self.extra_lmdbs, "a list of folders, such as ['outdoor.lmdb']")
        if not 0 <= self.real_share <= 1:
            _refuse("real_share", self.real_share, "from 0 to 1")
        if not 0 <= self.extra_share < 1:
            _refuse("extra_share", self.extra_share, "from 0 to below 1")

    def to_json(self) -> str:
        """Return the settings as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Rebuild settings from :meth:`to_json`'s dictionary.

        Raises ``HangulOcrError`` for unknown names, wrong types and values that make no sense.
        """
        if not isinstance(values, dict):
            raise HangulOcrError(
                f"settings are names and values, not {values!r}; write them with `hangul-ocr settings`"
            )
        parts = {"model": ModelSettings, "pretraining": TrainingSettings, "fine_tuning": TrainingSettings}
        parts["decoding"] = DecodingSettings
        built = {name: _part(kind, name, values[name]) for name, kind in parts.items() if name in values}
        _known_names(cls, values)
        return cls(**(values | built))


def _part(kind: type, name: str, values: Any) -> Any:
    """Build one part of the settings; its errors begin with its name."""
    if not isinstance(values, dict):
        _refuse(name, values, "names and values in braces")
    try:
        _known_names(kind, values)
        return kind(**values)
    except HangulOcrError as error:
        raise HangulOcrError(f"{name}: {error}") from None


def _known_names(kind: type, values: dict[str, Any]) -> None:
    unknown = sorted(set(values) - {entry.name for entry in dataclasses.fields(kind)})
    if unknown:
        raise HangulOcrError(f"unknown name {unknown[0]!r}; `hangul-ocr settings` prints the known ones")


def load_settings(path: Path) -> Settings:
    """Read a ``settings.json``. Raises ``HangulOcrError`` naming the file if it is missing or no such file.

    So does a backbone that nobody knows: else it would be found out when all data are prepared.
    """
    try:
        settings = Settings.from_dict(json.loads(path.read_bytes()))
        require_backbone(settings.model.backbone)
        return settings
    except OSError as error:
        problem = (
            "no such settings file" if isinstance(error, FileNotFoundError) else f"not readable ({error.strerror})"
        )
        raise HangulOcrError(f"{path}: {problem}; name a preset or an existing file") from None
    except ValueError as error:
        raise HangulOcrError(f"{path}: not valid JSON ({error}); write it anew") from None
    except HangulOcrError as error:
        raise HangulOcrError(f"{path}: {error}") from None


def require_backbone(name: str) -> None:
    """Raise ``HangulOcrError``, with the names near it, if ``name`` is neither a timm model nor one of Clova's."""
    import timm  # seconds, with PyTorch; whoever loads settings has imported it already

    if name in CLOVA_STEPS or timm.is_model(name):
        return
    near = difflib.get_close_matches(name, [*CLOVA_STEPS, *timm.list_models()], n=4) or ["see timm.list_models()"]
    raise HangulOcrError(f"backbone {name!r} is not a timm model nor one of Clova's; near it: {', '.join(near)}")


def preset(name: str, **changes: Any) -> Settings:
    """Return a named preset. ``changes`` replace top-level fields. Raises ``HangulOcrError`` for an unknown name."""
    if name not in PRESETS:
        raise HangulOcrError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[name], **changes)


def _check_types(part: Any) -> None:
    """Refuse a field of another type than the class says; JSON cannot tell."""
    kinds = typing.get_type_hints(type(part))
    for entry in dataclasses.fields(part):
        value, kind = getattr(part, entry.name), kinds[entry.name]
        if not _fits(value, kind):
            _refuse(entry.name, value, f"of type {getattr(kind, '__name__', kind)}")


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_fits(value, choice) for choice in typing.get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, typing.get_origin(kind) or kind)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        _refuse(name, value, f"one of {', '.join(allowed)}")


def _at_least(part: Any, least: int, *names: str) -> None:
    for name in names:
        if getattr(part, name) < least:
            _refuse(name, getattr(part, name), f"{least} or more")


def _refuse(name: str, value: Any, wanted: str) -> typing.NoReturn:
    raise HangulOcrError(f"{name} = {value!r}: must be {wanted}; change it in the settings")


def clova(name: str = "TPS-ResNet-BiLSTM-Attn", width: int = 512, hidden: int = 256, **changes: Any) -> ModelSettings:
    """Return a network of Baek et al. (ICCV 2019) by its name: transformation, extractor, sequence, prediction.

    ``width`` is the extractor's, ``hidden`` the sequence model's. As published, it reads grey crops squeezed to
    32 x 100 with a dense classifier; ``changes`` replace any field. Raises ``HangulOcrError`` for another name.
    """
    parts = dict(zip(_CLOVA, name.split("-"), strict=False))
    if len(name.split("-")) != 4 or any(part not in _CLOVA[kind] for kind, part in parts.items()):
        choices = "-".join("/".join(options) for options in _CLOVA.values())
        raise HangulOcrError(f"network {name!r} is none of Clova's; it must be {choices}")
    chosen = {kind: _CLOVA[kind][part] for kind, part in parts.items()}
    fixed = {"classifier": "dense", "fixed_width": 100, "normalisation": "fixed", "hidden": hidden}
    return ModelSettings(**(chosen | fixed | {"backbone_args": {"output_channel": width}} | changes))


_CLOVA = {
    "rectifier": {"None": "none", "TPS": "tps"},
    "backbone": {"VGG": "clova_vgg", "RCNN": "clova_rcnn", "ResNet": "clova_resnet"},
    "neck": {"None": "identity", "BiLSTM": "clova_bilstm"},
    "decoder": {"CTC": "ctc", "Attn": "lstm_attention"},
}

THIN_RESNET = {"channels": [32, 64, 128, 128], "stem_width": 16}

_SMALL = ModelSettings(backbone="resnet10t", backbone_args=THIN_RESNET, stem_pool=False)
#: The network of the weights that ship: a second block in three of the four stages, crops half as high again
#: and a little drawn out (benchmarks/LOG.md).
SHIPPED = dataclasses.replace(
    _SMALL, backbone_args=THIN_RESNET | {"layers": [1, 2, 2, 2]}, short_side=48, glance=32, stretch=1.2
)

_SHORT_PRETRAINING = TrainingSettings(steps=4000, seconds=760, optimizer="muon", learning_rate=0.02, validate_every=200)
_SHORT_FINE_TUNING = TrainingSettings(
    steps=400, seconds=60, learning_rate=1.5e-3, synthetic_share=0.5, ema_decay=0.99, validate_every=80
)

PRESETS: dict[str, Settings] = {
    # Seconds: for tests, and to see every notebook run once. It learns nothing.
    "smoke": Settings(
        preset="smoke",
        model=ModelSettings(backbone="resnet10t", backbone_args={"channels": [8, 16, 16, 32]}, hidden=32),
        pretraining=TrainingSettings(steps=4, crops_per_step=16, validate_every=2, save_every=2, workers=0),
        fine_tuning=TrainingSettings(steps=3, crops_per_step=12, validate_every=3, save_every=2, workers=0),
        folds=2,
        trained_folds=2,
        candidates=3,
    ),
    # Two CPU cores and ten minutes, without a GPU: the weights that ship learn the competition's crops.
    "quick": Settings(
        preset="quick",
        model=SHIPPED,
        pretraining=_SHORT_PRETRAINING,
        # Gently where the weights read the crops already, boldly where they do not (benchmarks/LOG.md).
        fine_tuning=dataclasses.replace(_SHORT_FINE_TUNING, learning_rate=3e-3, rate_by_error=0.6),
        start="shipped",
    ),
    # From noise: twenty minutes, a shallower network.
    "scratch": Settings(preset="scratch", model=_SMALL, pretraining=_SHORT_PRETRAINING, fine_tuning=_SHORT_FINE_TUNING),
    # A T4 and about an hour: the weights that ship go on learning, from made crops and from further real ones.
    "colab": Settings(
        preset="colab",
        model=SHIPPED,
        pretraining=TrainingSettings(
            steps=12000, seconds=2000, crops_per_step=256, optimizer="muon", learning_rate=4e-3, warmup=0.05, workers=2
        ),
        fine_tuning=TrainingSettings(
            steps=2000,
            seconds=300,
            crops_per_step=256,
            learning_rate=3e-3,
            rate_by_error=0.6,
            synthetic_share=0.5,
            workers=2,
        ),
        start="continued",
    ),
    # A large GPU with many cores to feed it.
    "full": Settings(
        preset="full",
        model=ModelSettings(backbone="resnet34d", hidden=384, grey=False, short_side=48, stem_pool=False),
        pretraining=TrainingSettings(
            steps=60000,
            crops_per_step=512,
            optimizer="muon",
            learning_rate=0.02,
            workers=12,
            validate_every=1000,
            save_every=1000,
        ),
        fine_tuning=TrainingSettings(
            steps=8000, crops_per_step=512, learning_rate=6e-4, synthetic_share=0.3, workers=12, validate_every=500
        ),
        folds=5,
        trained_folds=5,
    ),
}
