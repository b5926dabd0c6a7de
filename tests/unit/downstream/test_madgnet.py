"""MADGNet: each module against its formula in plain loops, then what the whole network promises."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.ndimage import uniform_filter
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from medsegdiff.downstream.segmentation.madgnet import (
    FITTING,
    EnsembleHead,
    MADGNet,
    UpBlock,
    build_encoder,
    distance_and_boundary,
    structure_loss,
)
from medsegdiff.downstream.segmentation.mfmsa import (
    MFMSA,
    FrequencyAttention,
    ScaleBranch,
    SpatialAttention,
    dct_bases,
    frequency_statistics,
)
from medsegdiff.errors import UserError

TINY = "test_resnet"  # timm's own, of 0.5 M parameters


def sigmoid(x: NDArray) -> NDArray:
    return 1 / (1 + np.exp(-x))


def tiny(**options: float) -> MADGNet:
    """The same small network every time, normalised for noise: as built, it hardly says one picture from another."""
    torch.manual_seed(0)
    network = MADGNet(TINY, **options)  # type: ignore[arg-type]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of one batch are all
    network(torch.randn(3, 1, 64, 64))
    return network.eval()


def discs(count: int, side: int) -> tuple[Tensor, Tensor]:
    """Dark discs on noise and their masks, each (count, 1, side, side)."""
    y, x = np.mgrid[:side, :side] / side
    random = np.random.default_rng(0)
    centres = random.uniform(0.35, 0.65, size=(count, 2))
    masks = np.stack([(y - cy) ** 2 + (x - cx) ** 2 < 0.2**2 for cy, cx in centres])[:, None].astype(np.float32)
    images = random.normal(0, 0.5, masks.shape).astype(np.float32) - masks
    return torch.from_numpy(images), torch.from_numpy(masks)


@pytest.mark.parametrize("size", [4, 7, 14])
def test_bases_are_those_of_the_dct(size: int) -> None:
    """Against scipy's DCT of unit impulses, and orthogonal. Damage: the 1/2 in the cosine, or the size, is off."""
    bases = dct_bases(size).double()
    expected = np.zeros((16, size, size))
    for i in range(size):
        for j in range(size):
            impulse = np.zeros((size, size))
            impulse[i, j] = 1
            expected[:, i, j] = dctn(impulse)[:4, :4].ravel() / 4  # scipy's has a 2 in front of each of both sums
    np.testing.assert_allclose(bases.numpy(), expected, atol=1e-6)
    gram = (bases.flatten(1) @ bases.flatten(1).T).numpy()
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-4)
    assert np.diag(gram).min() > 3.9


def loop_statistics(x: NDArray) -> NDArray:
    """(3, B, C): what `frequency_statistics` computes, basis by basis and map by map."""
    bases = dct_bases(x.shape[-1]).numpy()
    found = np.zeros((3, *x.shape[:2]))
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            products = [x[b, c] * basis for basis in bases]
            found[:, b, c] = [np.mean([reduce(p) for p in products]) for reduce in (np.mean, np.max, np.min)]
    return found


def test_frequency_statistics_and_their_gradient() -> None:
    """Against loops. Damage: batch and channels are mixed up, or the minimum is that of the absolute value."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 5, requires_grad=True)
    found = frequency_statistics(x)
    np.testing.assert_allclose(found.detach().numpy(), loop_statistics(x.detach().numpy()), atol=1e-6)
    change = 1e-4 * torch.randn(2, 3, 5, 5)
    weights = torch.randn(3, 2, 3)
    (weights * found).sum().backward()
    assert x.grad is not None
    moved = (weights.numpy() * (loop_statistics((x + change).detach().double().numpy()) - found.detach().numpy())).sum()
    assert float((x.grad * change).sum()) == pytest.approx(moved, rel=0.02)


def test_channel_attention() -> None:
    """At most 4 pixels a side: 8 are averaged 2 x 2. Damage: a statistic is left out or the ReLU stands elsewhere."""
    torch.manual_seed(0)
    attention = FrequencyAttention(32, dct_size=4)
    x = torch.randn(2, 32, 8, 8)
    pooled = x.numpy().reshape(2, 32, 4, 2, 4, 2).mean(axis=(3, 5))
    first, second = (p.detach().numpy() for p in attention.parameters())
    assert first.shape == (2, 32)  # reduction 16
    weights = sigmoid(sum(np.maximum(s @ first.T, 0) @ second.T for s in loop_statistics(pooled)))
    found = attention(x).detach().numpy()
    np.testing.assert_allclose(found, x.numpy() * weights[:, :, None, None], atol=1e-5)


def test_spatial_attention() -> None:
    """Damage: alpha and beta change places, or weigh nothing."""
    torch.manual_seed(0)
    attention = SpatialAttention(4)
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(attention(x), x)  # both are 1 at first
    with torch.no_grad():
        attention.alpha.fill_(0.3)
        attention.beta.fill_(-1.2)
    weight, bias = (p.detach().numpy() for p in attention.foreground.parameters())
    foreground = sigmoid(np.einsum("bcij,c->bij", x.numpy(), weight[0, :, 0, 0]) + bias[0])[:, None]
    expected = 0.3 * x.numpy() * (1 - foreground) - 1.2 * x.numpy() * foreground
    np.testing.assert_allclose(attention(x).detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("scale", "side", "cell"), [(1, 16, 2), (1, 14, 1), (2, 32, 4), (2, 16, 1), (0, 16, 1)])
def test_branches_average_down_to_eight_pixels(scale: int, side: int, cell: int) -> None:
    """A branch sees nothing but means of cells. Damage: it averages below 8 pixels, or not at all."""
    torch.manual_seed(0)
    branch = ScaleBranch(32, scale).eval()
    x = torch.randn(1, 32, side, side)
    n = side // cell
    shuffled = x.reshape(1, 32, n, cell, n, cell).flip(3, 5).reshape(x.shape)  # same means of cells
    assert torch.allclose(branch(x), branch(shuffled), atol=1e-6)
    wider = x.reshape(1, 32, side // (2 * cell), 2 * cell, side // (2 * cell), 2 * cell).flip(3, 5).reshape(x.shape)
    assert not torch.allclose(branch(x), branch(wider), atol=1e-4)
    assert branch.features[0][0].dilation == (1 + scale, 1 + scale)


def test_block_adds_the_mean_of_its_branches() -> None:
    """Damage: the residual or the division by three is forgotten."""
    torch.manual_seed(0)
    block = MFMSA(64).eval()
    x = torch.randn(2, 64, 16, 16)
    parts = [branch(x).detach().numpy() for branch in block.branches]
    np.testing.assert_allclose(block(x).detach().numpy(), x.numpy() + sum(parts) / 3, atol=1e-5)
    assert [branch.features[1][0].out_channels for branch in block.branches] == [64, 32, 32]


def test_up_block_takes_the_skip_at_twice_the_side() -> None:
    """Damage: the skip is not brought to 64 channels, or not joined."""
    torch.manual_seed(0)
    block = UpBlock(96, 40, 64).eval()
    x, skip = torch.randn(2, 96, 4, 4), torch.randn(2, 40, 8, 8)
    assert block(x, skip).shape == (2, 64, 8, 8)
    assert block.merge[0].in_channels == 96 + 64
    assert not torch.allclose(block(x, skip), block(x, skip.flip(1)))


def test_ensemble_head() -> None:
    """Enlarged by OpenCV. Damage: a task mends another one before enlarging, or with what it was before mending."""
    torch.manual_seed(0)
    head = EnsembleHead(8, dropout=0.0)
    x = 3 * torch.randn(1, 8, 4, 4)
    weight, bias = (p.detach().numpy() for p in head.conv.parameters())
    c1, c2, c3 = np.einsum("cij,kc->kij", x[0].numpy(), weight[:, :, 0, 0]) + bias[:, None, None]
    distance = c2 * sigmoid(c1)
    boundary = c3 * sigmoid(distance)
    lesion, distance, boundary = (
        cv2.resize(m, (16, 16), interpolation=cv2.INTER_LINEAR) for m in (c1, distance, boundary)
    )
    distance = distance + sigmoid(boundary)
    lesion = lesion + sigmoid(distance)
    for found, expected in zip(head(x, 16), (lesion, distance, boundary), strict=True):
        np.testing.assert_allclose(found[0, 0].detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("side", "window"), [(64, 5), (128, 11), (352, 31)])
def test_structure_loss(side: int, window: int) -> None:
    """Of two predictions for each mask. Damage: the window, a weight, or what smoothing concerns is another one."""
    random = np.random.default_rng(0)
    masks = discs(2, side)[1].numpy()
    logits = random.normal(0, 2, (2, 2, side, side))
    losses = []
    for b in range(2):
        mask = masks[b, 0].astype(np.float64)
        weights = 1 + 5 * np.abs(uniform_filter(mask, window, mode="constant") - mask)
        target = 0.8 * mask + 0.1
        for k in range(2):
            p = sigmoid(logits[b, k])
            entropy = -(target * np.log(p) + (1 - target) * np.log(1 - p))
            both, either = (weights * p * mask).sum(), (weights * (p + mask - p * mask)).sum()
            losses.append((weights * entropy).sum() / weights.sum() + 1 - (both + 1) / (either + 1))
    found = structure_loss(torch.from_numpy(logits).float(), torch.from_numpy(masks), smoothing=0.2)
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-4)


def test_distance_and_boundary_of_a_disc() -> None:
    """Against loops over pixels. Damage: the distance is not scaled to 1, or the contour is a pixel wider."""
    mask = discs(1, 24)[1]
    found = [target[0, 0].numpy() for target in distance_and_boundary(mask * 0.6)]
    lesion = mask[0, 0].numpy() > 0
    inside, outside = np.argwhere(lesion), np.argwhere(~lesion)
    distance = np.zeros(lesion.shape)
    for i, j in inside:
        distance[i, j] = min(math.dist((i, j), other) for other in outside)
    np.testing.assert_allclose(found[0], distance / distance.max(), atol=1e-5)
    boundary = [[len(set(lesion[i - 1 : i + 2, j - 1 : j + 2].flat)) == 2 for j in range(1, 23)] for i in range(1, 23)]
    np.testing.assert_array_equal(found[1], np.pad(boundary, 1))


def test_targets_of_odd_masks() -> None:
    """Empty, all of the picture, one pixel. Damage: an empty mask divides by 0, or a full one is infinitely deep."""
    masks = torch.zeros(3, 1, 8, 8)
    masks[1] = 1
    masks[2, 0, 4, 4] = 1
    distance, boundary = distance_and_boundary(masks)
    assert distance.shape == boundary.shape == masks.shape
    assert [float(m.max()) for m in distance] == [0, 1, 1]
    assert [float(m.sum()) for m in boundary] == [0, 28, 9]
    assert float(distance[1, 0, 1, 1]) == pytest.approx(2 / 4)
    assert float(distance[2].sum()) == 1


@pytest.mark.parametrize("side", [64, 96, 128])
def test_sizes(side: int) -> None:
    """One network for all of them. Damage: a map smaller than its DCT, or an odd one, is not provided for."""
    network = tiny()
    x = torch.randn(1, 1, side, side)
    assert [tuple(f.shape) for f in network.features(x)] == [
        (1, channels, side // factor, side // factor)
        for channels, factor in zip((256, 128, 64, 32), (16, 8, 4, 2), strict=True)
    ]
    assert network(x).shape == (1, 1, side, side)
    assert network.to("meta")(x.to("meta")).shape == (1, 1, side, side)  # which sizes it takes is asked there


@pytest.mark.parametrize("shape", [(32, 32), (80, 80), (64, 96)])
def test_other_sizes_are_refused(shape: tuple[int, int]) -> None:
    """Damage: a picture that is too small or does not divide comes through, or ends in an error of a layer."""
    with pytest.raises(ValueError, match="not squares of 64, 96, 128"):
        tiny()(torch.zeros(1, 1, *shape))


def test_prediction_does_not_depend_on_the_batch() -> None:
    """Alone or among five. Damage: a statistic of the attention is taken over the batch, or a batch of 1 squeezed."""
    network = tiny()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, SpatialAttention):
                module.alpha.fill_(0.5)
            if isinstance(module, FrequencyAttention):
                for p in module.parameters():
                    p.mul_(4)  # attention that distinguishes pictures
        x = torch.randn(5, 1, 64, 64)
        together = network(x)
        for i in range(5):
            torch.testing.assert_close(network(x[i : i + 1]), together[i : i + 1], atol=1e-5, rtol=1e-4)
    assert float((together[0] - together[1]).abs().max()) > 1e-3


def test_loss_is_the_sum_over_stages_and_tasks() -> None:
    """Damage: a stage or task is left out or averaged, or if smoothing touches distance or boundary."""
    network = tiny()
    x, masks = discs(2, 64)
    distances, boundaries = distance_and_boundary(masks)
    expected = 0.0
    with torch.no_grad():
        for head, features in zip(network.heads, network.features(x), strict=True):
            lesion, distance, boundary = head(features, 64)
            expected += float(structure_loss(lesion, masks, 0.1))
            expected += float(mse_loss(distance, distances))
            expected += float(binary_cross_entropy_with_logits(boundary, boundaries))
        found = network.training_loss(x, masks, smoothing=0.1)
        torch.testing.assert_close(network(x), lesion)  # the finest map is the prediction
    assert found.shape == ()
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_gradient_reaches_every_parameter() -> None:
    """Damage: a branch, a skip or a head is built and not used."""
    network = tiny().train()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.02 * torch.randn_like(p))  # zeros of initialisation, and alpha = beta, would hide what is behind
    network.training_loss(*discs(4, 64)).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_loss_is_finite_where_it_could_overflow() -> None:
    """No lesion, nothing else; bf16, huge logits. Damage: losses are computed in bf16, or from probabilities."""
    network = tiny()
    x = torch.randn(2, 1, 64, 64)
    masks = torch.stack([torch.zeros(1, 64, 64), torch.ones(1, 64, 64)])
    with torch.no_grad():
        for head in network.heads:
            assert isinstance(head.conv, nn.Conv2d)
            head.conv.weight.mul_(1000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = network.training_loss(x, masks)
        logits = network(x)
    loss.backward()
    assert loss.dtype == logits.dtype == torch.float32
    assert bool(torch.isfinite(loss))
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in network.parameters())


def test_dropout_acts_in_training_only() -> None:
    """Damage: the share of dropped channels does not reach the heads, or acts on predictions."""
    network = tiny(dropout=0.5)
    x = torch.randn(1, 1, 64, 64)
    assert torch.equal(network(x), network(x))
    network.heads.train()
    assert not torch.equal(network(x), network(x))


@pytest.mark.slow
def test_it_learns_a_small_batch() -> None:
    """Dice on discs within 20 steps. Damage: the sign of a loss, or of the logits, is wrong."""
    torch.manual_seed(0)
    network = MADGNet(TINY)
    x, masks = discs(3, 64)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(20):
        loss = network.training_loss(x, masks)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found = (network.eval()(x) > 0).float()
    assert float(2 * (found * masks).sum() / (found + masks).sum()) > 0.6  # lesion everywhere: 0.22


@pytest.mark.parametrize("name", FITTING.split(", "))
def test_encoders_that_messages_offer(name: str) -> None:
    """Damage: one of them has no features at 1/2 ... 1/32, or if its weights are shaped but not its stem."""
    with torch.device("meta"):
        network = MADGNet(name).eval()
        assert network(torch.zeros(1, 1, 64, 64)).shape == (1, 1, 64, 64)
    assert next(network.encoder.parameters()).shape[1] == 1


def test_size_of_the_network() -> None:
    """About 31 M parameters in the paper. Damage: a width of the decoder is another one."""
    with torch.device("meta"):
        count = sum(p.numel() for p in MADGNet("resnet50").parameters())
    assert count / 1e6 == pytest.approx(31.43, abs=0.01)


def test_wrong_encoders_are_reported() -> None:
    """Unknown, unfitting, with weights there are not. Damage: timm's own errors come through."""
    with pytest.raises(UserError, match=r"--encoder: found 'resnest51d'.*Near: .*resnest50d"):
        build_encoder("resnest51d")
    with pytest.raises(UserError, match=r"--encoder: found swin_tiny.* 1/4, 1/8, 1/16, 1/32; expected .* 1/2, 1/4"):
        build_encoder("swin_tiny_patch4_window7_224")
    with pytest.raises(UserError, match=r"--encoder: found 'resnet18\.nope'; expected one of resnet18\.a1_in1k"):
        build_encoder("resnet18.nope")
    with pytest.raises(UserError, match="--encoder_weights: found 'imagnet'; expected imagenet or a file"):
        build_encoder(TINY, "imagnet")
    bare = next(name for name in timm.list_models("*resnet*") if not timm.is_model_pretrained(name))
    with pytest.raises(UserError, match=f"--encoder_weights imagenet: found no weights for {bare}; .*Near: .*resnet"):
        build_encoder(bare, "imagenet")


def test_failed_download_says_how_to_provide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without network. Damage: the error of the download comes through as it is."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"--encoder_weights imagenet: found a download that failed .*or give a file"):
        build_encoder(TINY, "imagenet")
