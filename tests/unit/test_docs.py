"""The documentation says what is there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "pretrained" / "MODEL_CARD.md"]


def reference() -> ModuleType:
    """`docs/write_reference.py`, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("write_reference", ROOT / "docs" / "write_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_flags_is_that_of_the_settings() -> None:
    """Damage: a setting is added or changed, and `python docs/write_reference.py` was not run."""
    module = reference()
    assert module.PAGE.read_text() == module.page()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Damage: a page is moved, and others still point to where it was."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text)
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readme_is_short() -> None:
    """Damage: it grows until nobody reads it to the end."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_figures_have_a_text_for_those_who_do_not_see_them() -> None:
    """Damage: a picture without its alternative text."""
    found = [(page.name, alt) for page in PAGES for alt in re.findall(r"!\[(.*?)\]\(", page.read_text())]
    assert [page for page, alt in found if len(alt) < 10] == []
    assert found


@pytest.mark.slow
def test_the_site_is_built_and_asks_nothing_of_others(tmp_path: Path) -> None:
    """Damage: a page that no menu leads to, a name of the API that is gone, a font or script from elsewhere."""
    pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 30
    fetched = r"<(?:script|img|iframe)[^>]+src=\"https?://|<link[^>]+rel=\"(?:stylesheet|preconnect|icon)\"[^>]+href=\"https?://"
    own = [page for page in pages if page.name != "report.html"]
    assert [page.name for page in own if re.search(fetched, page.read_text())] == []
