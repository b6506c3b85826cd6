"""Thin-plate-spline rectifier: straightens curved and slanted text before the backbone reads it.

A small network places fiducial points along the upper and lower edge of the text; the spline through them says where
each pixel of the straightened crop is taken from. Shi et al., arXiv 1603.03915; Bookstein, PAMI 1989.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOCALISER_CHANNELS = (64, 128, 256, 512)
LOCALISER_HIDDEN = 256
SOFTENING = 1e-6  # added to a pixel's distance from a point, as in the published networks


class TPS(nn.Module):
    """Maps crops (N, C, H, W) to straightened ones of the same size; text that runs down is straightened downwards.

    Coordinates run from -1 to 1 over the crop. A fresh rectifier's points lie on the crop's edges: it moves no pixel by
    more than half a pixel.
    """

    def __init__(self, channels: int, fiducials: int = 20) -> None:
        super().__init__()
        self.fiducials = fiducials
        self.localiser = _localiser(channels, fiducials)

    def points(self, images: Tensor) -> Tensor:
        """Return the fiducial points (N, fiducials, 2) as (along, across) the text, the upper edge's first."""
        return self.localiser(images).view(len(images), self.fiducials, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Return the straightened crops (N, C, H, W)."""
        points = self.points(images)
        down = images.shape[2] > images.shape[3]
        # The axes change places, not the glyphs' own form: the localiser above has seen the crop upright.
        straight = _warp(images.transpose(2, 3) if down else images, points)
        return straight.transpose(2, 3) if down else straight


def _localiser(channels: int, fiducials: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip((channels, *LOCALISER_CHANNELS), LOCALISER_CHANNELS, strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        layers.append(nn.MaxPool2d(2) if after != LOCALISER_CHANNELS[-1] else nn.AdaptiveAvgPool2d(1))
    points = nn.Linear(LOCALISER_HIDDEN, 2 * fiducials)
    nn.init.zeros_(points.weight)
    points.bias.data = _edge_points(fiducials).float().flatten()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(after, LOCALISER_HIDDEN), nn.ReLU(), points)


def _warp(images: Tensor, points: Tensor) -> Tensor:
    """Return ``images`` (N, C, H, W) sampled along the spline through ``points``."""
    height, width = images.shape[2:]
    # Half precision would place a sample up to a pixel off on a long crop.
    with torch.autocast(images.device.type, enabled=False):
        terms, solution = spline(height, width, points.shape[1], images.device)
        grid = (terms @ (solution @ points.float())).view(len(images), height, width, 2)
        return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=True).to(images.dtype)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what a first call in inference leaves behind, training must be able to use
def spline(height: int, width: int, fiducials: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the terms at each pixel (height * width, F + 3) and, from F fiducial points, their weights (F + 3, F).

    Their product would do. Apart they round as in the published networks: in an image of noise, a difference of 1e-5
    in the grid makes one of 1e-2 in the scores.
    """
    edges = _edge_points(fiducials)
    pixels = torch.cartesian_prod(_centres(height), _centres(width)).flip(1)
    # The spline passes through its points, and its bending terms add up to no translation, scale or shear.
    system = torch.zeros(fiducials + 3, fiducials + 3, dtype=torch.float64)
    system[:fiducials] = _terms(edges, edges)
    system[fiducials:, 3:] = system[:fiducials, :3].T
    solution = torch.linalg.inv(system)[:, :fiducials]
    return _terms(pixels, edges, SOFTENING).float().to(device), solution.float().to(device)


def _terms(places: Tensor, edges: Tensor, softening: float = 0.0) -> Tensor:
    """Return the spline's terms at ``places`` (P, 2): 1, x, y, and r^2 log r for each point of ``edges`` (F, 2)."""
    distance = torch.linalg.vector_norm(places[:, None] - edges, dim=-1)
    bending = torch.special.xlogy(distance.square(), distance + softening)
    return torch.cat([torch.ones(len(places), 1, dtype=torch.float64), places, bending], dim=1)


def _edge_points(fiducials: int) -> Tensor:
    """Return points (fiducials, 2) evenly on the upper and then the lower edge, ends included."""
    along = torch.linspace(-1, 1, fiducials // 2, dtype=torch.float64)
    return torch.cat([torch.stack([along, torch.full_like(along, edge)], dim=1) for edge in (-1.0, 1.0)])


def _centres(count: int) -> Tensor:
    """Return the middle of each of ``count`` pixels between -1 and 1."""
    return (torch.arange(count, dtype=torch.float64) * 2 + 1) / count - 1
