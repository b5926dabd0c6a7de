"""Damages to data sets."""

from __future__ import annotations

from damages.damage import Damage

COMBINE = "tests/unit/data/test_combine.py"
RECORDS = "tests/unit/data/test_records.py"
SPLITS = "tests/unit/data/test_splits.py"

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
        "combine takes images that were sampled for held-out masks",
        "data/combine.py",
        "    if not known:\n        return\n",
        "    return\n",
        (COMBINE,),
    ),
    Damage(
        "copying_against_itself",
        "the copying test compares train with train",
        "data/copying.py",
        "similarity(synthetic, train), similarity(synthetic, held_out)",
        "similarity(synthetic, train), similarity(synthetic, train)",
        ("tests/unit/data/test_copying.py",),
    ),
    Damage(
        "real_pictures_taken_as_fixed",
        "the copying test's interval leaves out which real pictures are in train",
        "data/copying.py",
        "    return synthetic, train, held_out\n",
        "    return synthetic, *rows[1:]\n",
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
