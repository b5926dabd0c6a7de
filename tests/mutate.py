"""Damage the code in one place at a time: does a test notice?

    make mutation
    python tests/mutate.py --count 100 --seed 1 --only codec

A damage is another comparison, operator or number, chosen at random in the files of `TARGETS`, in a copy of the
repository. One that no test notices is printed: a test is missing, or the damage changes nothing that can be seen.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIFFUSION, UNIT = "medsegdiff/generators/joint_diffusion", "tests/unit/joint_diffusion"
TARGETS = {  # file -> tests that ought to notice
    f"{DIFFUSION}/noise.py": "tests/golden/test_ddpm_table.py tests/golden/test_modes.py "
    "tests/golden/test_preconditioning.py tests/unit/test_properties.py",
    f"{DIFFUSION}/samplers.py": "tests/golden/test_samplers.py tests/golden/test_modes.py",
    f"{DIFFUSION}/guidance.py": f"{UNIT}/test_guidance.py",
    f"{DIFFUSION}/codec.py": f"{UNIT}/test_codec.py",
    "medsegdiff/data/splits.py": "tests/unit/data/test_splits.py tests/unit/test_properties.py",
    "medsegdiff/data/combine.py": "tests/unit/data/test_combine.py tests/unit/test_properties.py",
}
SECONDS = 300  # a damage that makes the tests run longer is noticed
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def damages(source: str) -> Iterator[tuple[int, str, str, str]]:
    """(line, text before, text after, damaged source) of every damage that there is."""
    lines = source.splitlines(keepends=True)
    starts = [sum(len(line.encode()) for line in lines[:n]) for n in range(len(lines))]
    data = source.encode()
    tree = ast.parse(source)
    texts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        damaged = damage(node)
        if damaged is not None and isinstance(node, ast.expr) and id(node) not in texts:
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            yield (
                node.lineno,
                data[start:end].decode(),
                damaged,
                (data[:start] + damaged.encode() + data[end:]).decode(),
            )


def damage(node: ast.AST) -> str | None:
    """The text of the damaged node; None where nothing is done to its kind."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        return f"({ast.unparse(ast.Compare(node.left, [SWAPS[type(node.ops[0])](), *node.ops[1:]], node.comparators))})"
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        return f"({ast.unparse(ast.BinOp(node.left, SWAPS[type(node.op)](), node.right))})"
    if isinstance(node, ast.BoolOp):
        return f"({ast.unparse(ast.BoolOp(SWAPS[type(node.op)](), node.values))})"
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        return repr(not node.value) if isinstance(node.value, bool) else repr(node.value + 1)
    return None


def noticed(copy: Path, tests: str) -> bool:
    """Whether a test fails in that copy."""
    command = [sys.executable, "-m", "pytest", "-qx", "-n0", "-p", "no:cacheprovider", *tests.split()]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def main() -> int:
    """0 if the tests notice as many damages as asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="so many damages, the same number in each file")
    parser.add_argument("--seed", type=int, default=0, help="of their choice")
    parser.add_argument("--only", default="", help="files with this in their name")
    parser.add_argument("--at_least", type=float, default=0.8, help="share that has to be noticed")
    asked = parser.parse_args()
    targets = {name: tests for name, tests in TARGETS.items() if asked.only in name}
    found, total = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        for part in ("medsegdiff", "tests", "configs"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(ROOT / "pyproject.toml", copy / "pyproject.toml")
        for name, tests in targets.items():
            if noticed(copy, tests):
                raise SystemExit(f"error: {tests} fail without any damage")
            source = (copy / name).read_text()
            every = list(damages(source))
            chosen = random.Random(asked.seed).sample(every, min(len(every), -(-asked.count // len(targets))))
            for line, before, after, damaged in chosen:
                (copy / name).write_text(damaged)
                seen = noticed(copy, tests)
                found, total = found + seen, total + 1
                print(f"{'noticed ' if seen else 'SURVIVED'} {name}:{line}: {before} -> {after}", flush=True)
            (copy / name).write_text(source)
    print(f"{found} of {total} damages noticed")
    return int(found < asked.at_least * total)


if __name__ == "__main__":
    sys.exit(main())
