"""Settings: where a value comes from, and what is said about one that does not fit."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from shared.errors import BadInputError
from shared.records.subjects import Streams
from shared.service.settings import CommonSettings, describe, load


class EdgeSettings(CommonSettings, frozen=True, kw_only=True):
    """Serves proxies."""

    port: int
    """Port that proxies connect to."""
    limits: tuple[str, ...] = ()
    """Names of limits."""
    ratio: float = 0.5
    """Share, 0 to 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError("ratio lies between 0 and 1")


def read(*argv: str, file: Path | None = None, **environ: str) -> EdgeSettings:
    return load(EdgeSettings, argv, environ, file, command="meshlog run xds-edge")


def test_flags_win_over_variables_over_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("port: 1\nhttp_port: 1\ncluster: file\nratio: 1\n")
    found = read("--port", "3", "--config", str(file), MESHLOG_PORT="2", MESHLOG_HTTP_PORT="2")
    assert (found.port, found.http_port, found.cluster, found.ratio, found.prefix) == (3, 2, "file", 1.0, "mesh")
    assert read("--port=4", MESHLOG_CONFIG=str(file)).cluster == "file"
    assert read("--port=4", file=file).cluster == "file"
    assert found.streams == Streams(prefix="mesh")


def test_values_take_the_type_of_their_field() -> None:
    found = read("--port=1", "--limits=a, b", "--die-with-parent", "--ratio", "1", MESHLOG_LOG_FORMAT="text")
    assert (found.limits, found.die_with_parent, found.ratio, found.log_format) == (("a", "b"), True, 1.0, "text")
    assert read("--port=1", "--no-die-with-parent", MESHLOG_DIE_WITH_PARENT="yes").die_with_parent is False
    assert read("--port=1", MESHLOG_DIE_WITH_PARENT="off").die_with_parent is False


@pytest.mark.parametrize(
    ("argv", "environ", "says"),
    [
        (["--prot", "1"], {}, r"--prot: is no setting .* did you mean --port\?"),
        (["port"], {}, "port: is no setting"),
        (["--port"], {}, "--port: needs a value"),
        (["--port", "many"], {}, "--port: must be an integer, not 'many'"),
        (["--port", "1.5"], {}, "--port: must be an integer"),
        (["--port=1", "--log-level=loud"], {}, "--log-level: must be one of debug, info, warning, error"),
        (["--port=1"], {"MESHLOG_DIE_WITH_PARENT": "maybe"}, "MESHLOG_DIE_WITH_PARENT: must be true or false"),
        (["--port=1", "--ratio=7"], {}, "ratio lies between 0 and 1"),
        ([], {}, "needs --port or MESHLOG_PORT"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_source(argv: list[str], environ: dict[str, str], says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        load(EdgeSettings, argv, environ, command="meshlog run xds-edge")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("port: [1]", "port: must be an integer"),
        ("port: '1x'", "port: must be an integer"),
        ("prot: 1", r"prot is no setting; did you mean port\?"),
        ("- 1", "must be a mapping"),
        ("a: b: c", "is no YAML, line 1"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_name(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(BadInputError, match=says) as caught:
        read(file=file)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot be read"):
        read("--config", str(tmp_path / "none.yaml"))


def test_variables_that_kubernetes_sets_for_services_of_ours_are_passed_over() -> None:
    assert read("--port=1", MESHLOG_XDS_EDGE_SERVICE_HOST="10.96.0.3").port == 1


def test_help_tells_meaning_default_and_variable_of_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read("--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.strip() == describe(EdgeSettings, "meshlog run xds-edge").strip()
    assert "--port INTEGER    [MESHLOG_PORT]" in text
    assert "Port that proxies connect to. (required)" in text
    assert "(default: nats://127.0.0.1:4222)" in text
    for field in msgspec.structs.fields(EdgeSettings):
        line = text.splitlines()[next(n for n, t in enumerate(text.splitlines()) if f"{field.name.upper()}]" in t) + 1]
        assert not line.strip().startswith("("), f"{field.name} has no docstring"
