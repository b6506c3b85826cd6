"""Every choice of a run as frozen dataclasses, and the named presets ``smoke``, ``quick``, ``colab`` and ``full``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hangul_ocr.hangul import HangulOcrError


@dataclass(frozen=True)
class ModelSettings:
    """The network. ``short_side`` is a crop's height (its width when the text runs down), in pixels."""

    backbone: str = "resnet10t"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    grey: bool = True
    short_side: int = 32
    along_stride: int = 8
    across_stride: int = 32
    neck: str = "bilstm"
    hidden: int = 192
    decoder: str = "ctc"
    classifier: str = "compositional"
    max_length: int = 25

    def __post_init__(self) -> None:
        _one_of("neck", self.neck, ("bilstm", "none"))
        _one_of("decoder", self.decoder, ("ctc", "attention"))
        _one_of("classifier", self.classifier, ("compositional", "dense"))


@dataclass(frozen=True)
class TrainingSettings:
    """One training stage. It ends after ``steps`` optimiser steps, or lands its schedule at ``seconds`` if that is sooner."""

    steps: int = 1000
    seconds: float | None = None
    crops_per_step: int = 128
    learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 0.02
    clip: float = 5.0
    ema_decay: float = 0.998
    alignment_weight: float = 1.0
    augment: float = 1.0
    synthetic_share: float = 0.0
    validate_every: int = 250
    save_every: int = 250
    workers: int = 1
    number_type: str = "auto"


@dataclass(frozen=True)
class Settings:
    """A whole run: the network, the shared pretraining stage, the fine-tuning of each fold, and the folds."""

    preset: str = "quick"
    model: ModelSettings = field(default_factory=ModelSettings)
    pretraining: TrainingSettings = field(default_factory=TrainingSettings)
    fine_tuning: TrainingSettings = field(default_factory=TrainingSettings)
    folds: int = 3
    trained_folds: int = 3
    candidates: int = 5
    seed: int = 0

    def to_json(self) -> str:
        """Return the settings as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Rebuild settings from :meth:`to_json`'s dictionary. Raises ``HangulOcrError`` for unknown names."""
        values = dict(values)
        parts = {"model": ModelSettings, "pretraining": TrainingSettings, "fine_tuning": TrainingSettings}
        try:
            built = {name: kind(**values.pop(name)) for name, kind in parts.items() if name in values}
            return cls(**built, **values)
        except TypeError as error:
            raise HangulOcrError(f"settings: {error}; write them with `hangul-ocr settings`") from None


def load_settings(path: Path) -> Settings:
    """Read a ``settings.json``. Raises ``HangulOcrError`` if the file is missing or is not such a file."""
    try:
        return Settings.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise HangulOcrError(f"{path}: no such settings file; name a preset or an existing file") from None
    except ValueError as error:
        raise HangulOcrError(f"{path}: not valid JSON ({error}); write it anew") from None


def preset(name: str, **changes: Any) -> Settings:
    """Return a named preset. ``changes`` replace top-level fields. Raises ``HangulOcrError`` for an unknown name."""
    if name not in PRESETS:
        raise HangulOcrError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[name], **changes)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise HangulOcrError(f"model.{name} = {value!r} is unknown; choose one of {', '.join(allowed)}")


PRESETS: dict[str, Settings] = {
    "quick": Settings(),
}
