"""Damages to the downstream networks and their protocol."""

from __future__ import annotations

from damages.damage import Damage

PROTOCOL = (
    Damage(
        "steps_by_size",
        "an arm with more pairs trains longer",
        "protocol/once.py",
        "return config.steps or STEPS",
        "return (config.steps or STEPS) + 1",
        ("test_steps_are_a_matter_of_the_recipe",),
    ),
    Damage(
        "best_by_last",
        "the last weights are kept, not the best on val",
        "training/supervised.py",
        "if score > self.best_score:",
        "if True:",
        ("test_the_best_weights_on_val_are_kept",),
    ),
    Damage(
        "val_at_training_size",
        "pictures never reach their full size",
        "training/supervised.py",
        "if step >= self.small_steps:",
        "if False:",
        ("test_pictures_grow",),
    ),
    Damage(
        "real_first",
        "gradual mixing begins with real pairs",
        "training/sampling.py",
        "((False, before, after), (True, start - before, start + count - after))",
        "((True, before, after), (False, start - before, start + count - after))",
        ("test_real_share_rises_to_one",),
    ),
    Damage(
        "mirror_not_back",
        "predictions of mirror images are not mirrored back",
        "segmentation/training.py",
        "model(x.flip(-1)).float().flip(-1)",
        "model(x.flip(-1)).float()",
        ("test_mirrored_pictures_get_mirrored_masks",),
    ),
    Damage(
        "pictures_as_clusters",
        "near-duplicates in test count as independent",
        "scoring/summary.py",
        'interval(part, m, part[0]["group"].tolist(), resamples, seed)',
        'interval(part, m, part[0]["id"].tolist(), resamples, seed)',
        ("test_groups_are_the_clusters",),
    ),
    Damage(
        "one_seed_for_all",
        "every repeated run has the same seed",
        "protocol/run.py",
        "dataclasses.replace(config, seed=seed, seeds=None, output_dir=folder)",
        "dataclasses.replace(config, seed=0, seeds=None, output_dir=folder)",
        ("test_every_seed_is_a_run_of_its_own",),
    ),
    Damage(
        "known_pictures_scored",
        "external pictures that training knew are scored",
        "data/external.py",
        "if not near[i].any()]",
        "]",
        ("tests/unit/data/test_external.py",),
    ),
    Damage(
        "threshold_from_test",
        "classification takes any threshold",
        "classification/training.py",
        'return {**super().model_settings(), "classes": self.classes, "threshold": threshold}',
        'return {**super().model_settings(), "classes": self.classes, "threshold": 0.5}',
        ("test_threshold_comes_from_val_and_the_best_weights",),
    ),
    Damage(
        "batch_in_attention",
        "MADGNet's channel attention mixes the pictures of a batch",
        "segmentation/mfmsa.py",
        "weights = torch.sigmoid(self.mlp(frequency_statistics(pooled)).sum(dim=0))",
        "weights = torch.sigmoid(self.mlp(frequency_statistics(pooled)).sum(dim=0).mean(0, keepdim=True))",
        ("test_prediction_does_not_depend_on_the_batch",),
    ),
)
