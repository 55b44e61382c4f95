"""What a person types out of habit is answered with what to type here."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.__main__ import main
from cli.catalogue import VERBS
from cli.osm_verbs import table

PAGE = Path(__file__).parents[3] / "docs" / "migrate-from-osm.md"


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("proxy get config_dump bookbuyer-0 -n bookbuyer", "meshlog show HEAD --proxy"),
        ("proxy -n bookbuyer", "`osm proxy get`: `meshlog show HEAD --proxy"),
        ("proxy fly", "`osm proxy set`"),
        ("metrics enable --namespace a,b", "none yet"),
        ("policy check-pods a/b c/d", "meshlog why-not FROM TO"),
        ("support bug-report --all", "meshlog export FILE"),
        ("dashboard", "meshlog status"),
        ("alpha certificate rotate", "meshlog certificate rotate"),
        ("verify ingress --from-service a/b", "IngressBackend"),
        ("ns list", "`meshlog namespace`"),
        ("fly", "there is no verb"),
    ],
)
def test_a_verb_of_open_service_mesh_is_answered_with_its_counterpart(
    typed: str, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed.split()) == 2
    said = capsys.readouterr().err
    assert answer in said
    assert len(said.splitlines()) == 1


def test_every_counterpart_is_a_verb_that_there_is_and_stands_on_the_page() -> None:
    page = PAGE.read_text()
    for command, text in table():
        assert f"`{command}`" in page, command
        for part in text.split("`")[1::2]:
            words = part.split()
            if words[0] == "meshlog":
                assert words[1] in VERBS, part
