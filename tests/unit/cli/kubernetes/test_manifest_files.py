from __future__ import annotations

from pathlib import Path

import pytest

from cli.__main__ import main
from cli.kubernetes.manifest_files import read_manifests
from shared.errors import BadInputError

OBJECT = "apiVersion: v1\nkind: {}\nmetadata: {{name: x}}\n"


def test_documents_are_read_in_order_and_empty_ones_skipped(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("# no object\n---\n" + OBJECT.format("A") + "---\n---\n" + OBJECT.format("B"))
    assert [manifest["kind"] for manifest in read_manifests(file)] == ["A", "B"]


def test_a_list_is_read_as_its_items(tmp_path: Path) -> None:
    """What `kubectl get -o yaml` prints, of one kind or of several, and what an API server answers."""
    file = tmp_path / "export.yaml"
    one = "{apiVersion: v1, kind: Pod, metadata: {name: a}}"
    file.write_text(
        f"apiVersion: v1\nkind: List\nmetadata: {{resourceVersion: ''}}\nitems:\n- {one}\n- kind: List\n"
        f"  apiVersion: v1\n  items: [{one}]\n---\napiVersion: apps/v1\nkind: DeploymentList\nitems:\n"
        "- metadata: {name: b}\n---\napiVersion: v1\nkind: List\nitems: []\n"
    )
    assert [(one["apiVersion"], one["kind"], one["metadata"]["name"]) for one in read_manifests(file)] == [
        ("v1", "Pod", "a"),
        ("v1", "Pod", "a"),
        ("apps/v1", "Deployment", "b"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\n\tb: 2\n", "line 2"),
        ("just words\n", "document 1 is no Kubernetes object"),
        ("apiVersion: v1\nkind: [A]\nmetadata: {name: x}\n", "apiVersion and kind"),
        ("apiVersion: v1\nkind: A\nmetadata: [x]\n", "no metadata.name"),
        ("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: A}]\n", "document 1, item 1 has no metadata.name"),
        ("apiVersion: v1\nkind: List\nitems: [7]\n", "document 1, item 1 is no Kubernetes object"),
        ("apiVersion: v1\nkind: A\n", "no metadata.name"),
        ("apiVersion: v1\nmetadata: {name: x}\n", "apiVersion and kind"),
    ],
)
def test_bad_yaml_is_refused_with_file_and_place(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(BadInputError) as caught:
        read_manifests(file)
    assert says in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot be read"):
        read_manifests(tmp_path / "none.yaml")


def test_an_unknown_verb_exits_2_and_says_where_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == 2
    assert "meshlog --help" in capsys.readouterr().err


def test_an_unknown_service_exits_2_and_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "nothing"]) == 2
    assert "ingestor" in capsys.readouterr().err
