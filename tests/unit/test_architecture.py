"""The cuts between the parts, read from the source: imports run one way, five scripts, YAML that loads."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from medsegdiff.cli import parse
from medsegdiff.generators.joint_diffusion.config import TrainConfig

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "medsegdiff"

# The floors of the package, from the bottom up. A part imports parts on lower floors, and on its own floor nothing but
# itself. A new part has to find its place here first.
FLOORS = (
    {"errors"},
    {"statistics", "engine"},
    {"features"},
    {"data"},
    {"conditioning"},
    {"generators"},
    {"synthesis"},
    {"downstream"},
    {"evaluation"},
    {"flags"},
    {"api", "cli"},
    {"quickstart", "__main__"},
)
SCRIPTS = {
    "prepare_busi_dataset.py": "prepare",
    "train_medsegdiff.py": "train",
    "generate_synthetic.py": "generate",
    "create_combined_dataset.py": "combine",
    "train_segmentation.py": "segment",
}


def modules() -> dict[str, str]:
    """Source text of every module of the package, by its name below it: {"data.records": ...}."""
    files = {path.relative_to(PACKAGE).with_suffix(""): path.read_text() for path in PACKAGE.rglob("*.py")}
    return {".".join(p for p in path.parts if p != "__init__"): text for path, text in files.items()}


def imported(source: str) -> set[str]:
    """Modules of medsegdiff, by their names below it, that a source text imports anywhere, also within functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    within = {name.removeprefix("medsegdiff.") for name in names if name.startswith("medsegdiff.")}
    return within - {"__version__"}


def part_of(module: str) -> str:
    """The part of the house that a module belongs to."""
    return module.split(".")[0]


def test_imported_sees_every_way_to_import() -> None:
    """Damage: `imported` looks at the top of a file only, or at `from` imports only."""
    source = "import medsegdiff.engine.x\ndef f():\n    from medsegdiff import data, __version__\n    import torch\n"
    assert imported(source) == {"engine.x", "data"}


def test_imports_run_one_way() -> None:
    """Damage: a file in data/ that imports a generator, or a part without a place among the floors."""
    floor = {part: number for number, parts in enumerate(FLOORS) for part in parts}
    wrong = []
    for module, source in sorted(modules().items()):
        own = part_of(module)
        if not own:
            continue
        for part in sorted({part_of(name) for name in imported(source)} - {own}):
            if floor[part] >= floor[own]:
                wrong.append(f"{module} imports {part}")
    assert wrong == []


def test_generators_do_not_know_each_other() -> None:
    """Damage: one generator that imports another one: each is a folder of its own behind `generators.base`."""
    wrong = []
    for module, source in modules().items():
        parts = module.split(".")
        if parts[0] == "generators" and len(parts) > 2:
            others = {
                n for n in imported(source) if n.startswith("generators.") and n.split(".")[1] not in ("base", parts[1])
            }
            wrong += [f"{module} imports {name}" for name in sorted(others)]
    assert wrong == []


def test_no_circles() -> None:
    """Damage: two modules that import each other, within functions or not."""
    sources = modules()
    below = {
        name: {part for found in imported(text) for part in (found, found.rpartition(".")[0]) if part in sources}
        - {name, ""}
        for name, text in sources.items()
    }
    list(TopologicalSorter(below).static_order())  # raises CycleError, with the circle in its message


def test_five_thin_scripts() -> None:
    """Damage: a sixth script appears at the top, or if one calls another command or holds logic of its own."""
    assert {path.name for path in ROOT.glob("*.py")} == set(SCRIPTS)
    for name, command in SCRIPTS.items():
        source = (ROOT / name).read_text()
        assert f'main(["{command}", *sys.argv[1:]])' in source
        assert len(source.splitlines()) < 15


def test_only_the_command_line_prints_and_reads_argv() -> None:
    """Damage: a library module prints instead of logging, or looks at sys.argv or the working directory."""
    for module, source in modules().items():
        if module == "cli":
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{module}, line {node.lineno}, prints"
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("argv", "getcwd", "cwd"), f"{module}, line {node.lineno}: {node.attr}"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_loads(path: Path) -> None:
    """Damage: a key of a YAML file is misspelt or has a value of the wrong type."""
    assert isinstance(parse("train", TrainConfig, ["--config", str(path), "--data_dir", "d"]), TrainConfig)


def test_there_are_yaml_files() -> None:
    """Damage: configs/ is moved, so that the test above finds nothing to load."""
    assert {"quickstart", "busi_128", "busi_256"} <= {path.stem for path in (ROOT / "configs").glob("*.yaml")}
