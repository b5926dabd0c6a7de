"""Damages to generation."""

from __future__ import annotations

from damages.damage import Damage

GENERATING = (
    Damage(
        "given_ignored",
        "the conditioning picture is not used",
        "generation/draw.py",
        "return x if known is None else torch.where(start == 0, known, x)",
        "return x",
        ("test_images_for_conditioning_masks", "test_the_mask_matters_to_the_image"),
    ),
    Damage(
        "global_noise_in_drawing",
        "noise of sampling comes from the global generator",
        "generation/source.py",
        "torch.randn(shape, generator=generator(seed, *i.key, a, step, SAMPLE))",
        "torch.randn(shape)",
        ("test_same_seed_same_bytes",),
    ),
    Damage(
        "record_before_pictures",
        "the record of a chunk is written before its pictures",
        "generation/pairs.py",
        "    images, masks, faults = sample_chunk(source, task)\n    records = []",
        '    write_json(folder / CHUNKS / f"{task.name}.json", {"records": [], "faults": {}})\n'
        "    images, masks, faults = sample_chunk(source, task)\n    records = []",
        ("test_resumes_to_the_same_bytes",),
    ),
    Damage(
        "gates_off",
        "degenerate masks are let through",
        "generation/pairs.py",
        "fault = None if item.conditioning_input else mask_fault(mask, item.label in source.card.lesion_classes)",
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
        "the entropy of masks is reported in nats for bits",
        "generation/masks.py",
        "-(p * np.log2(p) + (1 - p) * np.log2(1 - p))",
        "-(p * np.log(p) + (1 - p) * np.log(1 - p))",
        ("test_entropy_and_agreement",),
    ),
)
