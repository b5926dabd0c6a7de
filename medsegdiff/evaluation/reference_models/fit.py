"""Fitting the reference models of a real set once, and finding them again by its content."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from medsegdiff.data.records import SampleSet
from medsegdiff.downstream.checks import check_splits
from medsegdiff.downstream.config import SegmentConfig
from medsegdiff.downstream.tasks import settle_names, task_of
from medsegdiff.downstream.train_and_test import (
    NOT_IN_FINGERPRINT,
    WEIGHTS_FILE,
    Data,
    is_finished,
    run_folder,
    train_and_test,
)
from medsegdiff.engine.device import choose_device
from medsegdiff.engine.settings import fingerprint_of
from medsegdiff.errors import UserError
from medsegdiff.evaluation.config import EvaluateConfig
from medsegdiff.evaluation.privacy.embedding import RECIPE, fit_embedding
from medsegdiff.evaluation.reference_models.predictions import class_probabilities, found_masks, mask_agreement
from medsegdiff.evaluation.reference_models.reference_model import ReferenceModel, ReferenceModels
from medsegdiff.evaluation.sets import Sets
from medsegdiff.statistics.bootstrap import mean_interval, statistic_interval
from medsegdiff.statistics.roc import macro_auc

logger = logging.getLogger(__name__)

# Reference models below these on held-out real pictures are worse than what a first attempt on BUSI reaches by far
MINIMUM_DICE, MINIMUM_AUC = 0.5, 0.7


def fit_reference_models(config: EvaluateConfig, real: SampleSet, sets: Sets) -> ReferenceModels:
    """Segmenter, classifier and embedding of the real train split; val picks their weights, held-out ones rate them.

    They are trained once for a content, a size and a recipe, and found again in `reference_model_folder`. A reference
    model whose data are lacking (a class without val pictures, for example) is None; the others are still used.
    """
    fingerprint = {
        "data": real.content,
        "img_size": sets.img_size,
        "precision": config.precision,
        "seed": config.seed,
    }
    missing: dict[str, str] = {}
    found: dict[str, ReferenceModel | None] = {}
    if len(sets.classes) < 2:
        missing["classifier"] = f"no classifier: all pairs compared are {sets.classes[0]}"
    if not real.arrays.foreground:
        missing["segmenter"] = "no segmenter: the pairs have no masks"
    try:
        check_splits(real, "all")
    except UserError as error:
        missing |= {name: f"no {name}: {error}" for name in ("segmenter", "classifier")}
    for name in ("segmenter", "classifier"):
        found[name] = None if name in missing else _fit_network(name, config, real, sets, fingerprint)
    for line in missing.values():
        logger.warning("%s", line)
    # Of what is compared, so that a class left out does not take part
    own = {**fingerprint, "steps": config.embedding_steps, "classes": list(sets.classes), "recipe": RECIPE}
    found["embedding"] = fit_embedding(
        config, sets.train, sets.held_out, reference_model_folder(config, "embedding", own), own
    )
    models = ReferenceModels(found["segmenter"], found["classifier"], found["embedding"], missing)
    for model in models.present:
        logger.info("%s: %s on held-out real pictures %s", model.name, model.measure, model.quality)
    return models


def reference_model_folder(config: EvaluateConfig, name: str, fingerprint: dict[str, Any]) -> Path:
    """Where a reference model of this fingerprint lies, or will lie."""
    base = _cache(config) if config.reference_models_dir is None else Path(config.reference_models_dir)
    digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
    return base / f"{name}_{digest[:16]}"


def _cache(config: EvaluateConfig) -> Path:
    """The folder of all reference models of this user; one in the output where there is no home, as in a container."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    base = Path(config.output_dir if caches.startswith("~") else caches)
    return base / "reference_models" if caches.startswith("~") else base / "medsegdiff" / "reference_models"


def _fit_network(
    name: str, config: EvaluateConfig, real: SampleSet, sets: Sets, fingerprint: dict[str, Any]
) -> ReferenceModel:
    """A network of phase 5, trained by its recipe."""
    recipe = settle_names(
        SegmentConfig(
            data_dir=str(real.root),
            task="segment" if name == "segmenter" else "classify",
            steps=config.reference_model_steps,
            img_size=sets.img_size,
            precision=config.precision,
            device=config.device,
            seed=config.seed,
        )
    )
    folder = reference_model_folder(config, name, fingerprint_of(recipe, "segment", NOT_IN_FINGERPRINT) | fingerprint)
    recipe = dataclasses.replace(recipe, output_dir=str(folder))
    task = task_of(recipe.task, real.arrays)
    task.check(recipe, real.classes)
    # Looked for before anything is written or locked: others may be using it, or may have made it for all to read
    run = run_folder(recipe, real)
    if not is_finished(recipe, run):
        train_and_test(recipe, task, Data(real, sets.img_size), wait=True)
    run.tidy()
    model, settings = task.load(folder / WEIGHTS_FILE)
    model = model.to(choose_device(config.device))
    resamples = {"resamples": config.bootstrap, "seed": config.seed}
    if name == "segmenter":
        dice = mask_agreement(found_masks(model, settings, sets.held_out, config), sets.held_out)
        quality = mean_interval(dice, sets.held_out.groups, **resamples)
        return ReferenceModel(name, model, settings, "Dice", quality, MINIMUM_DICE)
    probabilities = class_probabilities(model, settings, sets.held_out, config)
    labels = np.array([settings["classes"].index(label) for label in sets.held_out.labels])
    quality = statistic_interval(
        lambda rows: macro_auc(probabilities[rows], labels[rows]), sets.held_out.groups, **resamples
    )
    return ReferenceModel(name, model, settings, "AUC", quality, MINIMUM_AUC)
