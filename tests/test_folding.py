"""Networks made ready for reading: the same features in less work, whatever the backbone is built of."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from hangul_ocr.hangul import Alphabet
from hangul_ocr.models.classifier import CompositionalClassifier
from hangul_ocr.models.folding import folded, load_for_reading
from hangul_ocr.models.recognizer import Recognizer
from hangul_ocr.settings import ModelSettings
from hangul_ocr.weights import shipped_scout, shipped_weights

ALPHABET = Alphabet("가나다라ab1 ")
SMALL = ModelSettings(backbone="resnet10t", backbone_args={"channels": [8, 8, 16, 16]}, hidden=16)


def _trained(settings):
    """Return a network whose norms are not what they were made as, so that leaving one out would show."""
    torch.manual_seed(0)
    model = Recognizer(settings, ALPHABET).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    return model


def _crops(shape, channels):
    torch.manual_seed(1)
    return torch.randint(0, 256, (3, *shape, channels), dtype=torch.uint8)


def _norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("shape", [(32, 96), (96, 32)])
@pytest.mark.parametrize(
    ("settings", "left"),
    [
        (SMALL, 0),
        (replace(SMALL, grey=False, stem_pool=False, across_stride=8), 0),
        (replace(SMALL, backbone="densenet121", backbone_args={"growth_rate": 4, "block_config": [1, 1, 1, 1]}), 8),
        (replace(SMALL, backbone="mobilenetv3_small_050", backbone_args={}), 0),
        (replace(SMALL, backbone="clova_vgg", backbone_args={"output_channel": 16}), 0),
        (replace(SMALL, backbone="clova_resnet", backbone_args={"output_channel": 16}), 0),
        (replace(SMALL, backbone="clova_rcnn", backbone_args={"output_channel": 16}), 79),
        (replace(SMALL, decoder="hybrid"), 0),
        (replace(SMALL, decoder="attention"), 0),
    ],
)
def test_a_folded_network_reads_the_same(settings, left, shape):
    if settings.backbone.startswith("clova") and shape[0] > 32:
        pytest.skip("reads text that runs across alone")
    model, images = _trained(settings), _crops(shape, 1 if settings.grey else 3)
    before = _norms(model)
    ready = folded(model)
    with torch.no_grad():
        expected, given = model.features(images), ready.features(images)
        assert torch.allclose(expected, given, atol=1e-3 * expected.abs().max())
        strings, again = model.candidates(images, 1), ready.candidates(images, 1)
    assert [row[0][0] for row in strings] == [row[0][0] for row in again]
    assert not any(isinstance(module, CompositionalClassifier) for module in ready.modules())
    assert _norms(ready) == left < before or left == before == 79  # RCNN's convolutions serve several norms each
    assert _norms(model) == before  # the given one stays as it was
    assert any(isinstance(module, CompositionalClassifier) for module in model.modules())


class _ReadTwice(nn.Module):
    """A convolution whose output goes to its norm and past it, which no search by the norm's input sees."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images):
        features = self.convolution(images)
        return (features + self.norm(features)).mean(2).transpose(1, 2)


def test_a_network_that_a_fold_would_change_stays_as_it_is():
    model = _trained(SMALL)
    model.backbone = _ReadTwice()
    model.backbone.norm.running_mean.fill_(3.0)
    images = torch.randn(2, 1, 32, 64)
    ready = folded(model.eval())
    assert _norms(ready) == 1
    in_its_order = copy.deepcopy(model.backbone).to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(ready.backbone(images), in_its_order(images))


class _Deep(nn.Module):
    """Holds kernels of five dimensions, as timm's lambda networks do: they have no order that puts channels last."""

    def __init__(self):
        super().__init__()
        self.flat, self.deep = nn.Conv2d(1, 4, 3), nn.Conv3d(1, 4, (3, 3, 1))

    def forward(self, images):
        return (self.flat(images) + self.deep(images[..., None])[..., 0]).mean(2).transpose(1, 2)


def test_flat_kernels_alone_are_put_in_the_order_of_the_crops():
    model = _trained(SMALL)
    model.backbone = _Deep()
    images = torch.randn(2, 1, 32, 64)
    ready = folded(model.eval())
    assert ready.backbone.flat.weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(ready.backbone(images), model.backbone(images))


@pytest.mark.parametrize("path", [shipped_weights(), shipped_scout()], ids=["large", "small"])
def test_the_shipped_networks_fold_whole(path):
    assert _norms(load_for_reading(path)) == 0
