"""Damages to the evaluation of synthetic pairs."""

from __future__ import annotations

from damages.damage import Damage

EVALUATION = (
    Damage(
        "floor_of_synthetic",
        "the floor is measured on the synthetic pictures",
        "evaluation/compare.py",
        'sides = {"synthetic": synthetic, "floor": held_out}',
        'sides = {"synthetic": synthetic, "floor": synthetic}',
        ("tests/unit/evaluation/test_compare.py",),
    ),
    Damage(
        "biased_interval",
        "intervals of distances stay where repeated pictures push them",
        "evaluation/compare.py",
        "np.percentile(draws - draws.mean() + value, [2.5, 97.5])",
        "np.percentile(draws, [2.5, 97.5])",
        ("tests/unit/evaluation/test_compare.py",),
    ),
    Damage(
        "judge_always_trusted",
        "a bad judge is heard",
        "evaluation/judges/judge.py",
        "return self.quality.value >= self.minimum",
        "return True",
        ("tests/unit/evaluation/test_agreement.py",),
    ),
    Damage(
        "agreement_with_itself",
        "what the network found is compared with itself",
        "evaluation/judges/opinions.py",
        "zip(found, pairs.masks, strict=True)",
        "zip(found, found, strict=True)",
        ("tests/unit/evaluation/test_agreement.py",),
    ),
    Damage(
        "page_unescaped",
        "text of the report is taken for HTML",
        "evaluation/report/write.py",
        "autoescape=True,",
        "autoescape=False,",
        ("tests/unit/evaluation/test_report.py",),
    ),
    Damage(
        "nan_in_report",
        "a figure that is none reaches report.json",
        "evaluation/report/write.py",
        "json.dumps(report, allow_nan=False)",
        "json.dumps(report)",
        ("tests/unit/evaluation/test_report.py",),
    ),
    Damage(
        "holm_without_order",
        "every p value is multiplied by the number of tests, or by one",
        "evaluation/distributions.py",
        "values[order] * np.arange(len(values), 0, -1)",
        "values[order] * np.ones(len(values))",
        ("tests/unit/evaluation/test_distributions.py",),
    ),
    Damage(
        "copies_of_anything",
        "pictures nearest to held-out ones count as nearest to train",
        "evaluation/privacy/neighbours.py",
        "return float((first > second).mean() + 0.5 * (first == second).mean())",
        "return float((first < second).mean() + 0.5 * (first == second).mean())",
        ("tests/unit/evaluation/test_privacy.py",),
    ),
    Damage(
        "pairs_of_unlike_pictures",
        "pairs are drawn as if no picture stood in two of them",
        "evaluation/metrics/diversity.py",
        "return pairs_interval(values, likeness.groups, ",
        "return pairs_interval(values, np.arange(2 * len(values)).reshape(-1, 2), ",
        ("test_the_interval_is_over_pictures",),
    ),
    Damage(
        "judge_in_use_refused",
        "the second of two evaluations does not wait for a judge that the first one trains",
        "evaluation/judges/embedding.py",
        "with locked(make_folder(folder), wait=True):",
        "with locked(make_folder(folder)):",
        ("test_another_process_that_fits_it_is_waited_for",),
    ),
    Damage(
        "classes_of_few",
        "the class of a handful of pictures gets a figure",
        "evaluation/metrics/agreement.py",
        "for label in (label for label in context.sets.classes if label not in few):",
        "for label in context.sets.classes:",
        ("tests/unit/evaluation/test_agreement.py",),
    ),
)
