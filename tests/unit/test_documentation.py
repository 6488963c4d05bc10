"""What the pages name is there: files by their paths, and pages that a page links to."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FOLDERS = "docs|examples|trainer|operator|hack|bench|tests|constraints"
FILE = re.compile(rf"(?<![\w/.])(?:{FOLDERS})/[\w./-]+\.(?:md|yaml|py|sh)\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = FILE.findall(page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_page_is_named_by_another() -> None:
    texts = {page: page.read_text() for page in PAGES}
    alone = [
        page.name
        for page in ROOT.glob("docs/**/*.md")
        if not any(page.name in text for other, text in texts.items() if other != page)
    ]
    assert alone == []
