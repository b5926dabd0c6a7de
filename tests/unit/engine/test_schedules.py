"""What training is made of: the average of the weights, the order of the samples, the schedules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medsegdiff.data.sampling import sample_indices
from medsegdiff.engine.ema import EMA, Averages, exponent
from medsegdiff.engine.loop import eval_steps, lr_factor


def test_ema_formula() -> None:
    """Damage: lerp with decay instead of 1 - decay; no shorter average at the start; integer buffers averaged."""
    torch.manual_seed(0)
    model = nn.BatchNorm1d(3)
    ema = EMA(model, decay=0.4)
    expected = {k: v.clone().double() for k, v in model.state_dict().items()}
    for step in range(12):
        with torch.no_grad():
            model.weight.normal_()
        model(torch.randn(4, 3))
        ema.update(model, step)
        decay = min(0.4, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            old = expected[name]
            expected[name] = decay * old + (1 - decay) * value if value.is_floating_point() else value.double()
        for name, value in ema.state_dict().items():
            assert torch.allclose(value.double(), expected[name], atol=1e-6)
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())


@pytest.mark.parametrize("length", [0.05, 0.1, 0.2])
def test_averages_have_the_length_they_are_asked_for(length: float) -> None:
    """Damage: another root of the cubic; t counted from 0; the exponent without its one."""
    total, model = 400, nn.Linear(1, 1, bias=False)
    averages = Averages(model, [length])
    weights = torch.zeros(total, dtype=torch.float64)
    for step in range(total):
        beta = (1 - 1 / (step + 1)) ** (exponent(length) + 1)
        weights *= beta
        weights[step] = 1 - beta
        with torch.no_grad():
            model.weight.fill_((step + 1) / total)
        averages.update(model, step)
    time = torch.arange(1, total + 1, dtype=torch.float64) / total
    mean = (weights * time).sum()
    assert float((weights * (time - mean) ** 2).sum().sqrt()) == pytest.approx(length, rel=0.02)
    assert averages.model.weight.item() == pytest.approx(float(mean), rel=1e-4)


def test_the_best_average_is_chosen_and_remembered() -> None:
    """Damage: the worst one; a choice that a resumed run forgets."""
    model = nn.Linear(1, 1, bias=False)
    averages = Averages(model, [0.05, 0.1, 0.2])
    for step in range(5):
        with torch.no_grad():
            model.weight.fill_(float(step))
        averages.update(model, step)
    assert averages.model is averages.models[1]
    found = averages.choose(lambda m: m.weight.item())  # the longest average is the lowest here
    assert list(found) == [0.05, 0.1, 0.2]
    assert averages.model is averages.models[2]
    other = Averages(nn.Linear(1, 1, bias=False), [0.05, 0.1, 0.2])
    other.load_state_dict(averages.state_dict())
    assert other.chosen == 2
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(other.models, averages.models, strict=True))


LABELS = torch.tensor([0] * 7 + [1] * 3)


def test_balanced_draws() -> None:
    """Damage: sampling by frequency; a row twice before all of its class came once."""
    rows = sample_indices(LABELS, 0, 42, seed=0, balanced=True)
    sampled = LABELS[rows]
    assert sampled.tolist() == [0, 1] * 21
    first, second = rows[sampled == 0], rows[sampled == 1]
    assert all(sorted(epoch.tolist()) == list(range(7)) for epoch in first.split(7))
    assert all(sorted(epoch.tolist()) == [7, 8, 9] for epoch in second.split(3))
    assert len({tuple(epoch.tolist()) for epoch in first.split(7)}) == 3  # every epoch has an order of its own


@pytest.mark.parametrize("balanced", [True, False])
def test_samples_have_no_state(balanced: bool) -> None:
    """Damage: an order that depends on where a batch starts."""
    whole = sample_indices(LABELS, 0, 40, 5, balanced)
    parts = [sample_indices(LABELS, start, 8, 5, balanced) for start in range(0, 40, 8)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(sample_indices(LABELS, 0, 40, 6, balanced), whole)


def test_every_row_once_an_epoch() -> None:
    """Damage: sampling with replacement."""
    rows = sample_indices(LABELS, 0, 30, 0, balanced=False)
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in rows.split(10))


def test_lr_factor() -> None:
    """Damage: a warm-up from 0, which wastes a step; decay to 0; decay that starts at step 0."""
    values = [lr_factor(step, 10, 110) for step in range(111)]
    assert values[0] == pytest.approx(0.1)
    assert values[9] == values[10] == pytest.approx(1)
    assert values[60] == pytest.approx(0.505)
    assert values[110] == pytest.approx(0.01)
    assert all(a >= b for a, b in zip(values[10:-1], values[11:], strict=True))
    assert lr_factor(500, 10, 110) == pytest.approx(0.01)
    assert lr_factor(0, 0, 0) == pytest.approx(1)


def test_cheap_steps_count_less_in_the_decay() -> None:
    """Damage: a decay that is nearly over when pictures get their full size, where most of the work is still ahead."""
    values = [lr_factor(step, 0, 100, cheap=80, price=0.25) for step in range(101)]
    plain = [lr_factor(step, 0, 40) for step in range(41)]
    assert values[80] == pytest.approx(plain[20])
    assert values[90] == pytest.approx(plain[30])
    assert values[40] == pytest.approx(plain[10])
    assert values[100] == pytest.approx(0.01)


@pytest.mark.parametrize(("total", "evals", "expected"), [(10, 3, {3, 7, 10}), (2, 5, {1, 2}), (1, 1, {1})])
def test_eval_steps(total: int, evals: int, expected: set[int]) -> None:
    """Damage: total // evals steps apart, which misses the end."""
    assert eval_steps(total, evals) == expected
