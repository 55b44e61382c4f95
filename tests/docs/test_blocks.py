"""What the documents tell a reader to type is there, is run, and prints what they say.

Blocks that need no mesh are run here. Those that need one run on one embedded mesh, in the long form (`make docs-run`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest

from cli.__main__ import main
from tests.docs import story
from tests.docs.blocks import DOCUMENTS, ROOT, Block, Command, agrees, blocks
from tests.docs.shell import Shell, prepare, run

BLOCKS = {path.relative_to(ROOT).as_posix(): list(blocks(path)) for path in DOCUMENTS}
CONSOLES = [block for found in BLOCKS.values() for block in found if block.language == "console"]
LANGUAGES = {"", "console", "yaml", "python"}
NOT_RUN = {
    "CONTRIBUTING.md": ["make install", ".venv/bin/python -P -m pytest"],
    "README.md": ["make demo", ".venv/bin/meshlog demo --json"],
    "docs/devcluster.md": ["KUBEBUILDER_ASSETS=/path/to/binaries make test"],
    "docs/health.md": ["meshlog status"],
    "docs/history.md": ["meshlog plan -f policy.yaml --server"],
    "docs/ingestor.md": ["kubectl describe"],
    "docs/install.md": [
        "meshlog install --apply",
        "helm install",
        "meshlog verify control-plane",
        "docker build",
        "meshlog upgrade",
        "meshlog uninstall mesh",
    ],
    "docs/migrate-from-osm.md": [
        "meshlog migrate osm",
        "meshlog install --apply",
        "meshlog namespace remove",
        "meshlog migrate osm --only",
    ],
    "docs/reliability.md": ["make simulate"],
    "docs/start.md": ["make demo", "kubectl get pods"],
    "docs/xds.md": ["make edge-clients", "make bench-edge", ".venv/bin/python -m benchmarks.swarm"],
}
"""Every block that is not run, by how its first command begins: who adds one has to say so here as well."""


def test_every_block_is_of_a_known_kind_and_commands_are_in_console_blocks() -> None:
    """A command in another kind of block would be one that is never run."""
    for found in BLOCKS.values():
        for block in found:
            assert block.language in LANGUAGES, f"{block}: {block.language}"
            if block.language == "console":
                assert block.commands(), f"{block}: no command line"
            else:
                typed = [line for line in block.lines if re.match(r"(\$ |meshlog \S+ |make [a-z])", line)]
                assert not [line for line in typed if "──" not in line], f"{block}: {typed}"
    for path in DOCUMENTS:
        indented = re.findall(r"^ {4}(?:meshlog|make|kubectl|helm) .*$", path.read_text(), re.MULTILINE)
        assert not indented, f"{path.name}: {indented}"


def test_what_is_not_run_is_listed_with_its_reason() -> None:
    listed = {
        name: [block for block in found if block.reason and block.language == "console"]
        for name, found in BLOCKS.items()
    }
    for name, found in listed.items():
        began = [block.commands()[0].typed for block in found]
        expected = NOT_RUN.get(name, [])
        assert len(began) == len(expected), f"{name}: {began}"
        for typed, start in zip(began, expected, strict=True):
            assert typed.startswith(start), f"{name}: {typed!r} is not run; listed is {start!r}"
        for block in found:
            for place in re.findall(r"`((?:tests|deploy)/[^`]+)`", block.reason):
                assert (ROOT / place).exists(), f"{block}: {place} is not there"


@cache
def _help(*argv: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        assert main([*argv, "--help"]) == 0
    return said.getvalue()


def _meshlog(words: list[str], about: str) -> None:
    """The verb is there, and takes these options."""
    verb = words[0]
    choices = re.search(r"\{([a-z,-]+)\}", _help(verb))
    below = [word for word in words[1:2] if choices and word in choices[1].split(",")]
    known = _help(verb, *below)
    options = words[: words.index("--")] if "--" in words else words
    for word in options:
        if word.startswith("-") and word != "-":
            name = word.partition("=")[0]
            assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", known), f"{about}: {verb} has no option {name}"


def _programs(words: list[str]) -> list[list[str]]:
    """Each program of a command line with its arguments."""
    found: list[list[str]] = [[]]
    for word in words:
        if word in {"|", ";", "&&"}:
            found.append([])
        else:
            found[-1].append(word)
    return found


@pytest.mark.parametrize("block", CONSOLES, ids=str)
def test_what_is_typed_exists(block: Block) -> None:
    """Also in blocks that are not run: verbs, their options, targets of make, modules and files of ours."""
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in block.commands():
        about = f"{block.document}:{command.line}: {command.typed}"
        for words in _programs(shlex.split(command.typed)):
            while words and "=" in words[0] and not words[0].startswith("-"):
                words.pop(0)
            program = Path(words[0]).name if words else ""
            if program == "meshlog":
                _meshlog(words[1:], about)
            elif program == "make":
                assert words[1] in targets, f"{about}: no such target"
            elif program == "python" and "-m" in words:
                module = words[words.index("-m") + 1]
                assert importlib.util.find_spec(module) is not None, f"{about}: no such module"
            for word in words:
                if word.startswith(("deploy/", "tests/", "docs/", "tools/")):
                    assert (ROOT / word).exists(), f"{about}: {word} is not there"


def _run_here(name: str) -> list[Block]:
    return [one for one in BLOCKS[name] if one.language == "console" and not one.reason and not one.mesh]


@pytest.mark.parametrize("name", [name for name in BLOCKS if _run_here(name)])
async def test_blocks_that_need_no_mesh_print_what_the_page_says(name: str, tmp_path: Path) -> None:
    prepare(tmp_path, BLOCKS[name])
    environment = {"MESHLOG_STATE": str(tmp_path / "state")}
    if name == "docs/history.md":
        await story.write(tmp_path / "story")
        environment["MESHLOG_LOG"] = str(tmp_path / "story")
    shell = Shell(tmp_path, environment, within=60)
    for block in _run_here(name):
        run(block, shell)


def _on_a_mesh() -> list[Block]:
    """In an order in which one mesh can be asked: README's, which has the bookstore; the other pages'; its end."""
    readme = [one for one in BLOCKS["README.md"] if one.mesh]
    others = [
        one for name, found in BLOCKS.items() if name not in {"README.md", "docs/start.md"} for one in found if one.mesh
    ]
    return [*readme[:-1], *others, readme[-1]]


@pytest.mark.long
@pytest.mark.devcluster
@pytest.mark.parametrize("pages", ["README and the others", "docs/start.md"])
def test_blocks_that_need_a_mesh_print_what_the_page_says(pages: str, tmp_path: Path) -> None:
    asked = [one for one in BLOCKS["docs/start.md"] if one.mesh] if pages == "docs/start.md" else _on_a_mesh()
    named = {one.document for one in asked}
    prepare(tmp_path, [one for name in named for one in BLOCKS[name]])
    shell = Shell(tmp_path, {"MESHLOG_STATE": str(tmp_path / "state")}, within=120)
    try:
        for block in asked:
            run(block, shell)
    finally:
        if (tmp_path / "state").exists():
            shell.run(Command(f"{sys.executable} -P -m cli down --forget || true", [], 0))


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        (["a"], ["a"], True),
        (["a"], ["b"], False),
        (["a"], ["a", "b"], False),
        (["a", "b"], ["a"], False),
        (["a …", "b"], ["a 12 ms", "b"], True),
        (["a …", "b"], ["x 12 ms", "b"], False),
        (["…", "b"], ["a", "a", "b"], True),
        (["…", "b"], ["b"], True),
        (["a", "…"], ["a", "b", "c"], True),
        (["a", "…", "c"], ["a", "b"], False),
        (["a.c"], ["abc"], False),
        (["…"], [], True),
    ],
)
def test_what_stands_for_what_varies(expected: list[str], printed: list[str], *, same: bool) -> None:
    assert agrees(expected, printed) is same


def test_a_page_that_says_something_else_is_found_out(tmp_path: Path) -> None:
    """The runner fails for another output, for a command that fails, and for one that is not there."""
    shell = Shell(tmp_path, {}, within=30)
    good = Block("page", 1, "console", ["$ export A=1", "$ echo $A  # said", "1"], "", mesh=False)
    run(good, shell)
    for lines in (["$ echo a", "b"], ["$ false"], ["$ no-such-program"], ["$ meshlog no-such-verb"]):
        with pytest.raises(AssertionError):
            run(Block("page", 1, "console", lines, "", mesh=False), shell)
