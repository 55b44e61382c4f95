"""Words that hide which component acts are kept out of documents, comments and docstrings.

A component publishes, reports, prints, notifies, receives; it does not "say", "tell" or "hear". "Who" is for people.
Code is not judged: neither inline code in backticks nor fenced blocks, identifiers, or strings that are no docstrings.
A folder whose text keeps the rule is added to `FOLDERS`.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "docs",
    "cli",
    "deploy/devcluster",
    "services/ca",
    "services/compiler",
    "tests/unit/ca",
    "tests/integration/ca",
    "services/injector",
    "services/ingestor",
    "services/xds_edge",
    "tests/integration/xds_edge",
    "tests/unit/xds_edge",
    "tests/unit/injector",
    "tests/integration/injector",
    "tests/integration/redirect",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "tools",
    "benchmarks",
    "deploy/install",
    "deploy/demo",
    "deploy/nats.py",
    "tests/unit/ingestor",
    "tests/integration/ingestor",
    "tests/simulation",
    "tests/faults",
    "shared/eventlog",
    "shared/identity",
    "shared/io",
    "shared/kubernetes",
    "shared/meshconfig",
    "shared/netfilter",
    "shared/policy",
    "shared/records",
    "shared/service",
    "shared/streams",
    "shared/telemetry",
    "shared/timing",
    "shared/build.py",
    "shared/errors.py",
    "shared/membership.py",
    "shared/names.py",
    "shared/projected_objects.py",
)
"""Files and folders that keep the rule; owners of product code add theirs here, `services/ca` for example."""

PEOPLE = (
    "person|people|user|users|engineer|engineers|operator|operators|administrator|administrators|those|anyone|everyone"
    "|attacker|attackers|tenant|tenants|client|clients|stranger|strangers|reader|readers|newcomer|newcomers|team|teams"
    "|reporter|reporters|contributor|contributors|maintainer|maintainers|reviewer|reviewers|owner|owners"
)
"""Human parties, after which "who" is plain English."""
_FORBIDDEN = re.compile(
    r"\b(nobody|somebody|anybody|everybody|whoever|whom|says?|said|tells?|told|hears?|heard|news|who)\b", re.IGNORECASE
)
_PERSON_BEFORE = re.compile(rf"\b(?:{PEOPLE})\b[\"')]*,?(?:\s+(?:and|or))?\s+$", re.IGNORECASE)
_FENCED = re.compile(r"^ *```.*?^ *```[^\n]*$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n) {4}(?! *[*-] )[^\n]*(?:\n(?: {4}[^\n]*)?)*")
_INLINE = re.compile(r"(`+)(?:(?!`).)+?\1", re.DOTALL)
_TARGET = re.compile(r"\]\([^)]*\)")
_GENERATED = re.compile(r"<!-- (users: [^>]*|rights: [^>]*|limits: [^>]*) -->.*?<!-- end of [^>]* -->", re.DOTALL)
"""Tables that tools write from strings of the product: they change with the code that holds them."""


def _blank(match: re.Match[str]) -> str:
    """Keeps the lines' numbers."""
    return "\n" * match[0].count("\n") + " "


def words(text: str) -> Iterator[tuple[int, str]]:
    """Each forbidden word of a prose text with its line, from 1."""
    text = _INLINE.sub(_blank, text)
    for found in _FORBIDDEN.finditer(text):
        if found[0].lower() != "who" or not _PERSON_BEFORE.search(text[: found.start()]):
            yield text.count("\n", 0, found.start()) + 1, found[0]


def of_markdown(text: str) -> Iterator[tuple[int, str]]:
    """The same of a document, without its blocks of code and generated tables."""
    for pattern in (_FENCED, _GENERATED, _INDENTED, _TARGET):
        text = pattern.sub(_blank, text)
    yield from words(text)


def of_python(text: str) -> Iterator[tuple[int, str]]:
    """The same of the comments and docstrings of a module; a docstring is any string that stands alone."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from ((node.lineno + line - 1, word) for line, word in words(node.value.value))
    for run, first in _comments(text):
        yield from ((first + line - 1, word) for line, word in words(run))


def _comments(text: str) -> Iterator[tuple[str, int]]:
    """Comments on consecutive lines as one text, each with its first line: sentences run over several."""
    run: list[str] = []
    first = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        if run and token.start[0] != first + len(run):
            yield "\n".join(run), first
            run = []
        if not run:
            first = token.start[0]
        run.append(token.string.lstrip("#"))
    if run:
        yield "\n".join(run), first


def findings(root: Path, folders: tuple[str, ...]) -> list[str]:
    """`path:line: word` for each forbidden word below some files and folders of a tree."""
    found: list[str] = []
    for folder in folders:
        place = root / folder
        assert place.exists(), f"{folder} is in FOLDERS and not in the project"
        paths = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.suffix in {".md", ".py"})
        for path in paths:
            judge = of_markdown if path.suffix == ".md" else of_python
            name = path.relative_to(root).as_posix()
            found += [f"{name}:{line}: {word}" for line, word in sorted(judge(path.read_text(encoding="utf-8")))]
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_texts_name_the_component_and_the_act(folder: str) -> None:
    assert findings(ROOT, (folder,)) == []


@pytest.mark.parametrize(
    "text",
    [
        "the compiler tells the edge",
        "Nobody leads.",
        "edges, who follow",
        "an ingestor\nwho leads",
        "whom it concerns",
        "as SMI says",
        "the log is\nheard of",
        "old news",
        "`who` said",
    ],
)
def test_a_sentence_that_hides_its_component_is_found(text: str) -> None:
    assert list(words(text))
    assert list(of_markdown(text))
    assert list(of_python(f'"""{text}"""\n'))
    assert list(of_python("x = 1\n" + "\n".join(f"# {line}" for line in text.split("\n")) + "\n"))
    assert list(of_python(f'class A:\n    x = 1\n    """{text}"""\n'))


@pytest.mark.parametrize(
    "text",
    [
        "a person who asks",
        "operators who pin a mesh",
        "users,\nwho may write",
        "`say` and ``told``",
        "the whole of it, essays, untold, newsletter, whose",
    ],
)
def test_people_code_and_longer_words_pass(text: str) -> None:
    assert not list(words(text))


def test_code_of_a_page_or_a_module_is_not_judged() -> None:
    page = (
        "A\n```console\n$ who\nsaid\n```\nB\n\n    nobody says\n\nC [page](who.md)\n"
        "<!-- limits: of a tool -->\n| says |\n<!-- end of the limits -->\n"
    )
    assert not list(of_markdown(page))
    assert list(of_markdown(page + "who\n")) == [(page.count("\n") + 1, "who")]
    assert not list(of_python('told = "nobody said"\nprint(told)  # a `who`\n'))


def test_comments_on_consecutive_lines_are_one_text() -> None:
    assert not list(of_python("# a person\n# who asks\n"))
    assert list(of_python("x = 1  # a person\n\n# who asks\n")) == [(3, "who")]
