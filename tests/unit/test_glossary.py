"""Each page leads to the glossary, and each link to a heading of a page leads to one that is there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
GLOSSARY = ROOT / "docs" / "glossary.md"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *PAGES]
_HEADING = re.compile(r"^#+ (.+?)\s*$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]*)#([^)\s]+)\)")


def slug(heading: str) -> str:
    """The anchor that GitHub and most renderers make of a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


@cache
def anchors(page: Path) -> frozenset[str]:
    return frozenset(slug(found) for found in _HEADING.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))))


def entries() -> list[tuple[str, str]]:
    """Each term with its text."""
    parts = re.split(r"^### (.+)$", GLOSSARY.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("page", [page for page in PAGES if page != GLOSSARY], ids=lambda page: page.name)
def test_each_page_links_to_the_glossary(page: Path) -> None:
    assert "(glossary.md" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_links_to_headings_lead_to_headings(page: Path) -> None:
    for path, anchor in _LINK.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        if "://" not in path:
            target = (page.parent / path).resolve() if path else page
            assert anchor in anchors(target), f"{page.name} links to {path}#{anchor}"


def test_terms_are_in_order_and_each_names_its_home() -> None:
    names = [name for name, _ in entries()]
    assert len(names) > 30
    assert names == sorted(names, key=str.lower)
    for name, text in entries():
        home = re.search(r"Code: `[\w./]+`", " ".join(text.split()))
        assert home or re.search(r"\]\(#[\w-]+\)", text), (
            f"{name} has neither a home nor another term that it refers to"
        )


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_tests_are_named_by_their_whole_path(page: Path) -> None:
    """A name alone leads nowhere when files move; whole paths are looked for by `test_project`."""
    named = re.findall(r"`([\w./]*\btest_\w+\.py)`", page.read_text(encoding="utf-8"))
    assert [path for path in named if not path.startswith("tests/")] == []
