"""Deliberate damages to the code, each of which some test has to notice.

`old` has to occur exactly once in `file`; `tests` are what should fail: whole files, or single tests of slow ones, by
name, whichever file they stand in.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Damage:
    """One text in the package replaced by another one."""

    name: str
    breaks: str  # what no longer holds, in a phrase
    file: str  # below medsegdiff/
    old: str
    new: str
    tests: tuple[str, ...]


COMBINE = "tests/unit/data/test_combine.py"
RECORDS = "tests/unit/data/test_records.py"
SPLITS = "tests/unit/data/test_splits.py"
SAMPLERS = "tests/golden/test_samplers.py"
MODES = "tests/golden/test_modes.py"

MATHEMATICS = (
    Damage(
        "ddpm_table_shifted",
        "the DDPM table begins one step early: abar_0 = 1 in front, abar_T dropped",
        "diffusion/noise.py",
        "return torch.cumprod(1 - beta, dim=0)",
        "return torch.cumprod(1 - torch.cat([beta[:1] * 0, beta[:-1]]), dim=0)",
        ("tests/golden/test_ddpm_table.py",),
    ),
    Damage(
        "loss_of_clean",
        "a clean modality costs something",
        "diffusion/noise.py",
        "return torch.where(sigma > 0, weight, 0.0)",
        "return weight",
        ("test_a_clean_modality_costs_nothing", "test_only_a_clean_modality_weighs_nothing"),
    ),
    Damage(
        "table_columns_swapped",
        "mask_to_image keeps the image and draws the mask",
        "diffusion/noise.py",
        "return torch.stack([levels, clean], dim=1)",
        "return torch.stack([clean, levels], dim=1)",
        (MODES,),
    ),
    Damage(
        "mask_first_image_first",
        "mask_first draws the image first",
        "diffusion/noise.py",
        "image, mask = torch.cat([hidden, levels])",
        "mask, image = torch.cat([hidden, levels])",
        (MODES,),
    ),
    Damage(
        "ddim_given_moves",
        "ddim replaces a column at 0 by the estimate instead of copying it",
        "diffusion/samplers.py",
        "a = _ratio(s, s_next)\n        x = torch.where(s_next < s, a * x + (1 - a) * denoise(x, row), x)",
        "a = s_next / torch.where(s > 0, s, 1.0)\n        x = a * x + (1 - a) * denoise(x, row)",
        (MODES, "test_a_column_that_stands_still_is_not_touched"),
    ),
    Damage(
        "dpmpp_first_step",
        "dpmpp_2m divides by h_prev = 0",
        "diffusion/samplers.py",
        "c = torch.where(h_previous > 0, h / (2 * torch.where(h_previous > 0, h_previous, 1.0)), 0.0)",
        "c = h / (2 * h_previous)",
        (SAMPLERS,),
    ),
    Damage(
        "heun_uncorrected",
        "heun takes Euler steps",
        "diffusion/samplers.py",
        "corrected = moving & (s_next > 0)",
        "corrected = moving & (s_next > s)",
        (SAMPLERS,),
    ),
    Damage(
        "ddpm_noise",
        "ddpm adds noise s' sqrt(1 - a) instead of s' sqrt(1 - a^2)",
        "diffusion/samplers.py",
        "s_next * (1 - a2).sqrt() * noise(step)",
        "s_next * (1 - a2.sqrt()).sqrt() * noise(step)",
        (SAMPLERS,),
    ),
    Damage(
        "mask_threshold_at_code_0",
        "masks are cut at code 0, the mean of the mask, instead of half-way",
        "diffusion/codec.py",
        "mask > 0.5",
        "mask > self.mean[-1]",
        ("tests/unit/diffusion/test_codec.py",),
    ),
    Damage(
        "codec_without_std",
        "encoding does not divide by the standard deviation",
        "diffusion/codec.py",
        "return (x - mean) / std * SIGMA_DATA",
        "return (x - mean) * SIGMA_DATA",
        ("tests/unit/diffusion/test_codec.py",),
    ),
    Damage(
        "guidance_sign",
        "guidance pushes away from the class",
        "diffusion/guidance.py",
        "without + weight * (with_class - without)",
        "without - weight * (with_class - without)",
        ("tests/unit/diffusion/test_guidance.py",),
    ),
    Damage(
        "guidance_off",
        "the guidance weight is never used",
        "diffusion/guidance.py",
        "active = weight != 1 and interval[0] < float(sigma[column]) <= interval[1]",
        "active = False",
        ("tests/unit/diffusion/test_guidance.py",),
    ),
    Damage(
        "guidance_not_handed_on",
        "--guidance is read and not handed on",
        "generation/pairs.py",
        "guidance=config.guidance,",
        "guidance=1.0,",
        ("test_settings_matter", "test_the_network_is_told_the_class_and_the_options"),
    ),
    Damage(
        "class_ignored",
        "every class gets the null embedding",
        "models/blocks.py",
        "return F.silu(e + self.label(index))",
        "return F.silu(e + self.label(torch.full_like(index, null)))",
        ("tests/unit/models/test_patch_unet.py",),
    ),
)

TRAINING = (
    Damage(
        "ema_not_updated",
        "the averaged weights stay where they began",
        "training/train.py",
        "self.ema.update(self.denoiser, step)",
        "pass",
        ("test_learns",),
    ),
    Damage(
        "ema_without_warm_up",
        "the average has its full length from the first step",
        "training/ema.py",
        "weight = 1 - min(self.decay, (1 + step) / (10 + step))",
        "weight = 1 - self.decay",
        ("test_ema_formula",),
    ),
    Damage(
        "codec_sees_val",
        "the codec's statistics are those of train and val together",
        "training/train.py",
        "PairCodec.fit(self.train_set.images, self.train_set.masks)",
        "PairCodec.fit(*(torch.cat([getattr(s, n) for s in (self.train_set, self.val_set)]) for n in"
        ' ("images", "masks")))',
        ("test_the_codec_is_made_from_train_alone",),
    ),
    Damage(
        "label_dropout_ignored",
        "the class is never hidden",
        "training/train.py",
        ">= config.label_dropout",
        ">= 0",
        ("test_label_dropout",),
    ),
    Damage(
        "global_noise_in_training",
        "training noise comes from the global generator",
        "training/train.py",
        "noise = torch.randn(x0.shape, generator=random)",
        "noise = torch.randn(x0.shape)",
        ("test_steps_depend_on_their_number_only",),
    ),
    Damage(
        "resume_without_optimiser",
        "a resumed run begins with a fresh optimiser",
        "training/train.py",
        'self.optimiser.load_state_dict(state["optimiser"])',
        "pass",
        ("test_resumes_to_the_bit",),
    ),
    Damage(
        "resume_without_ema",
        "a resumed run begins with a fresh average",
        "training/train.py",
        'self.ema.load_state_dict(state["ema"])',
        "pass",
        ("test_resumes_to_the_bit",),
    ),
    Damage(
        "test_watched_in_training",
        "the best generative model is chosen on the test split",
        "training/train.py",
        'load_tensors(pairs.select("val"), config.img_size, what="val split")',
        'load_tensors(pairs.select("test"), config.img_size, what="val split")',
        ("test_label_dropout",),
    ),
    Damage(
        "hashes_of_val",
        "a checkpoint tells the hashes of val for those of train",
        "training/train.py",
        '"perceptual_hash": r.perceptual_hash} for r in records]',
        '"perceptual_hash": r.perceptual_hash} for r in self.val_set.records]',
        ("test_checkpoints_tell_what_they_are",),
    ),
    Damage(
        "state_may_run_code",
        "a saved state is unpickled whatever is in it",
        "training/state.py",
        "weights_only=True)",
        "weights_only=False)",
        ("test_a_state_that_does_not_fit_is_told_in_one_line",),
    ),
    Damage(
        "augment_image_alone",
        "augmentation moves the image and leaves the mask",
        "data/transforms.py",
        "images, masks = moved[:, :1], moved[:, 1:]",
        "images = moved[:, :1]",
        ("tests/unit/test_transforms.py",),
    ),
    Damage(
        "test_watched_in_segmentation",
        "segmentation stops early on the test split",
        "protocol/once.py",
        'load_tensors(self.pairs.select("val"), self.img_size, what="val split")',
        'load_tensors(self.pairs.select("test"), self.img_size, what="val split")',
        ("test_segmentation_reads_test_pictures_last",),
    ),
    Damage(
        "grey_values_of_val",
        "segmentation scales pictures by the statistics of val",
        "training/supervised.py",
        "grey_statistics(train.images)",
        "grey_statistics(val.images)",
        ("test_segmentation_scales_by_train_alone",),
    ),
    Damage(
        "synthetic_in_val",
        "segmentation takes synthetic pairs in val and test",
        "protocol/checks.py",
        'if split != "train" and record.is_synthetic:',
        "if False:",
        ("test_splits_that_leak",),
    ),
    Damage(
        "dice_of_nothing",
        "an empty mask found where there is none scores 0",
        "segmentation/scores.py",
        "float(found == there))",
        "0.0)",
        ("tests/unit/segmentation/test_scores.py",),
    ),
)

GENERATING = (
    Damage(
        "given_ignored",
        "the given picture is not used",
        "generation/draw.py",
        "return x if given is None else torch.where(start == 0, given, x)",
        "return x",
        ("test_images_for_given_masks", "test_the_mask_matters_to_the_image"),
    ),
    Damage(
        "global_noise_in_drawing",
        "noise of drawing comes from the global generator",
        "generation/source.py",
        "torch.randn(shape, generator=generator(seed, *i.key, a, step, SAMPLE))",
        "torch.randn(shape)",
        ("test_same_seed_same_bytes",),
    ),
    Damage(
        "record_before_pictures",
        "the record of a chunk is written before its pictures",
        "generation/pairs.py",
        "    images, masks, faults = draw_chunk(source, task)\n    records = []",
        '    write_json(folder / CHUNKS / f"{task.name}.json", {"records": [], "faults": {}})\n'
        "    images, masks, faults = draw_chunk(source, task)\n    records = []",
        ("test_resumes_to_the_same_bytes",),
    ),
    Damage(
        "gates_off",
        "degenerate masks are let through",
        "generation/pairs.py",
        "fault = None if item.given else mask_fault(mask, item.label in source.card.lesion_classes)",
        "fault = None",
        (
            "test_refused_masks_are_drawn_again_and_counted",
            "test_gives_up_after_max_redraws",
        ),
    ),
    Damage(
        "pickle_opened",
        "a checkpoint that is a pickle is opened, which runs its code",
        "checkpoint.py",
        "    path = find_checkpoint(Path(path))\n",
        "    if Path(path).suffix in PICKLES and Path(path).is_file():\n"
        "        torch.load(path, weights_only=False)\n"
        "    path = find_checkpoint(Path(path))\n",
        ("test_a_pickle_is_never_opened",),
    ),
    Damage(
        "doubt_in_nats",
        "the entropy of masks is told in nats for bits",
        "generation/masks.py",
        "-(p * np.log2(p) + (1 - p) * np.log2(1 - p))",
        "-(p * np.log(p) + (1 - p) * np.log(1 - p))",
        ("test_entropy_and_agreement",),
    ),
)

DATA = (
    Damage(
        "write_in_place",
        "files are written under their own name, not a temporary one",
        "files.py",
        'temporary = path.with_name(path.name + ".tmp")',
        "temporary = path",
        ("tests/unit/test_files.py",),
    ),
    Damage(
        "group_leak",
        "splits are made of single pictures: near-duplicates come into train and test",
        "data/splits.py",
        "np.unique(np.array(groups), return_inverse=True)",
        "np.unique(np.arange(len(groups)), return_inverse=True)",
        (SPLITS,),
    ),
    Damage(
        "duplicates_ignored",
        "only identical pictures are one group",
        "data/duplicates.py",
        "near = hash_distances(hashes, hashes) <= bits",
        "near = hash_distances(hashes, hashes) <= 0",
        ("tests/unit/data/test_duplicates.py",),
    ),
    Damage(
        "leak_of_test",
        "combine takes pairs of a checkpoint that was trained on test pictures",
        "data/combine.py",
        'if r.split != "train"))',
        'if r.split == "val"))',
        (COMBINE,),
    ),
    Damage(
        "leak_of_near_copies",
        "combine finds identical pictures alone, not crops of them",
        "data/combine.py",
        "if r.image_hash in known or distance <= bits",
        "if r.image_hash in known",
        (COMBINE,),
    ),
    Damage(
        "leak_of_given_masks",
        "combine takes images that were drawn for held-out masks",
        "data/combine.py",
        "    if not given:\n        return\n",
        "    return\n",
        (COMBINE,),
    ),
    Damage(
        "copying_against_itself",
        "the copying test compares train with train",
        "data/copying.py",
        "likeness(synthetic, train), likeness(synthetic, held_out)",
        "likeness(synthetic, train), likeness(synthetic, train)",
        ("tests/unit/data/test_copying.py",),
    ),
    Damage(
        "path_outside",
        "a path that leaves the folder is read",
        "data/records.py",
        "if not Path(os.path.realpath(base / name)).is_relative_to(base):",
        "if False:",
        (RECORDS,),
    ),
    Damage(
        "double_id",
        "two rows may have one id",
        "data/records.py",
        "if record.id in seen:",
        "if False:",
        (RECORDS,),
    ),
    Damage(
        "hash_unchecked",
        "a picture that was changed after it was prepared is read",
        "data/records.py",
        "if content_hash(picture) != known_hash:",
        "if False:",
        (RECORDS,),
    ),
    Damage(
        "group_in_two_splits",
        "a group may stand in two splits",
        "data/records.py",
        "if split_of.setdefault(record.group, record.split) != record.split:",
        "if False:",
        ("tests/unit/training/test_settings.py",),
    ),
    Damage(
        "hash_of_some_pixels",
        "the content hash looks at every second pixel",
        "data/hashing.py",
        "np.ascontiguousarray(picture).data",
        "np.ascontiguousarray(picture.ravel()[::2]).data",
        ("test_every_pixel_counts_in_the_hash",),
    ),
)

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
)

DAMAGES = (*MATHEMATICS, *TRAINING, *GENERATING, *DATA, *PROTOCOL, *EVALUATION)
