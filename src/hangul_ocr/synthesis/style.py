"""How synthetic crops look: every choice of layout, colour and damage as a probability or a range."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

# Text that runs down is learnt more slowly than its share of the crops would allow.
TALL_SHARE = 0.25


@dataclass(frozen=True)
class Style:
    """How crops look: probabilities in 0..1, lengths in pixels or, where it says so, in ems of the text.

    ``clean`` is the share of crops that look like print and graphics: what is below ``clean`` happens to them four
    times less often.
    """

    short_side: tuple[int, int] = (24, 120)
    vertical: float = 0.135  # of two characters and more; single tall syllables make 16 % of the crops tall
    min_contrast: float = 70.0
    margin: tuple[float, float] = (-0.03, 0.25)  # ems on each side
    spacing: tuple[float, float] = (-0.1, 0.22)  # ems between glyphs
    space: tuple[float, float] = (0.7, 1.5)  # times the font's own
    stretch: tuple[float, float] = (0.75, 1.3)
    weight: tuple[float, float] = (-0.2, 1.0)
    reweight: float = 0.6
    rotation: float = 5.0  # degrees, standard deviation
    shear: float = 0.12
    perspective: float = 0.07
    clean: float = 0.35

    spread: float = 0.1  # widely spaced letters, up to 0.7 em
    two_lines: float = 0.0  # of labels with a space; a reader along one line cannot learn them
    ripple: float = 0.12
    wobble: float = 0.12
    curve: float = 0.08
    gradient: float = 0.4
    texture: float = 0.35
    photo: float = 0.15
    stripes: float = 0.08
    clutter: float = 0.25
    panels: float = 0.03
    outline: float = 0.15
    shadow: float = 0.15
    extrusion: float = 0.06
    glow: float = 0.05
    shaded_text: float = 0.2
    tones: float = 0.06
    neighbours: float = 0.15
    occlusion: float = 0.05
    reflection: float = 0.07
    relight: float = 0.4
    night: float = 0.06
    blur: float = 0.4
    blur_strength: float = 1.3
    grain: float = 0.5
    grain_strength: float = 14.0
    low_resolution: float = 0.25
    jpeg: float = 0.35
    dots: float = 0.0  # off, as the next: the sample competition has neither
    weave: float = 0.0
    jpeg_quality: tuple[int, int] = (25, 90)

    @classmethod
    def plain(cls, short_side: tuple[int, int] = (32, 48)) -> Style:
        """Return clean printed text on a flat ground: geometry and colours vary, nothing is damaged."""
        still = cls(short_side=short_side, rotation=1.5, shear=0.04, perspective=0.02, clean=0.0)
        return replace(still, **dict.fromkeys(EFFECTS, 0.0))

    @classmethod
    def signs(cls, short_side: tuple[int, int] = (24, 120)) -> Style:
        """Return photographed signs and covers: everything on, as in the competition."""
        return cls(short_side=short_side)

    @classmethod
    def training(cls, short_side: tuple[int, int]) -> Style:
        """Return what a recogniser learns from: signs, and what is harder than most of them, more often.

        Packaging adds letters of dots, woven labels, and spaces narrower than the font's.
        """
        return cls(short_side=short_side, vertical=TALL_SHARE, space=(0.3, 1.5), dots=0.03, weave=0.05)

    def only(self, effect: str) -> Style:
        """Return this style with ``effect`` on every crop and every other effect off."""
        return replace(self, clean=0.0, **(dict.fromkeys(EFFECTS, 0.0) | {effect: 1.0}))

    def calmer(self) -> Style:
        """Return this style as print and graphics show it: four times fewer effects, almost upright."""
        fewer = {name: getattr(self, name) / 4 for name in EFFECTS}
        return replace(
            self, rotation=self.rotation / 5, shear=self.shear / 3, perspective=self.perspective / 3, **fewer
        )


_NAMES = [field.name for field in fields(Style)]
#: The names of the effects: the fields from ``spread`` on that are probabilities.
EFFECTS = tuple(name for name in _NAMES[_NAMES.index("spread") :] if not name.endswith(("_strength", "_quality")))
