"""What the project says of itself is true: dependencies, lock file, verbs, documents."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from cli.catalogue import VERBS, overview
from cli.verbs.process.run import SERVICES

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
DOCUMENTS = sorted(p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def declared() -> set[str]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    names = {re.split(r"[\[<>=; ]", requirement)[0].lower() for group in groups for requirement in group}
    return names - {"meshlog"}


@pytest.mark.parametrize("name", sorted(declared()))
def test_each_dependency_earns_its_place_in_a_line(name: str) -> None:
    lines = (ROOT / "docs" / "dependencies.md").read_text().splitlines()
    assert any(line.startswith("|") and f"`{name}`" in line for line in lines), f"docs/dependencies.md lacks {name}"


@pytest.mark.parametrize("name", sorted(declared()))
def test_each_dependency_is_locked(name: str) -> None:
    assert re.search(rf"^{re.escape(name)}(\[.*\])?==", LOCK, re.MULTILINE)


def test_the_lock_has_hashes_and_no_address() -> None:
    pinned = re.findall(r"^[a-z0-9][a-z0-9._-]*(?:\[[a-z0-9,]+\])?==", LOCK, re.MULTILINE | re.IGNORECASE)
    assert len(pinned) > 40
    assert LOCK.count("--hash=sha256:") >= len(pinned)
    assert not re.search(r"https?://|--index-url|--find-links|file:", LOCK)


def test_opentelemetry_proto_is_not_installed_beside_xds_protos() -> None:
    """They own files of the same names: whichever came last breaks the other."""
    assert "opentelemetry-proto==" not in LOCK
    assert "opentelemetry-proto" not in {each.name for each in importlib.metadata.distributions()}


@pytest.mark.parametrize("name", sorted(VERBS))
def test_each_verb_of_the_catalogue_exists_and_is_shown(name: str) -> None:
    assert importlib.util.find_spec(VERBS[name].module) is not None
    assert f"  {name} " in overview()


def test_each_service_can_be_run() -> None:
    assert all(importlib.util.find_spec(module) is not None for module in SERVICES.values())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_of_documents_lead_somewhere(document: str) -> None:
    page = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{document} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_and_targets_that_documents_name_are_there(document: str) -> None:
    text = (ROOT / document).read_text()
    for path in re.findall(r"`((?:services|shared|cli|deploy|tests|benchmarks|tools|docs)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), f"{document} names {path}"
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)|\$ make ([a-z-]+)", text))
    assert {one or other for one, other in named} <= targets


def test_ten_questions_of_a_newcomer_are_answered_by_paths() -> None:
    """That the paths are there is seen above, as for every document."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text.partition("### Ten questions")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|") and "?" in line]
    assert len(rows) == 10
    for row in rows:
        assert re.search(r"`(?:services|shared|cli)/[\w/]+\.py`", row), row
