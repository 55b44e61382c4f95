"""The chart is the other spelling of an installation: generated, documented and, with Helm at hand, equal to it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.install.control_plane import control_plane
from deploy.install.profile import PRESETS, SERVICES
from deploy.install.secrets import log_secrets
from deploy.nats import PEOPLE
from tests.programs import helm_binary, needs_helm
from tools import chart


def test_the_generated_files_are_those_that_the_generator_makes() -> None:
    stale = [path for path, body in chart.generated().items() if (chart.CHART / path).read_text() != body]
    assert stale == [], "run tools/chart.py"


def test_the_default_values_are_the_ha_preset_and_every_one_has_a_comment() -> None:
    text = (chart.CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    values.pop("mesh_config")
    assert values == chart.settings(PRESETS["ha"])
    blocks = [block for block in text.split("\n\n") if not block.startswith("# Values of")]
    for block in blocks:
        keys = [line for line in block.splitlines() if re.match(r"[a-z_]+:", line)]
        assert not keys or block.lstrip().startswith("#"), keys


def test_the_schema_knows_every_value_and_refuses_others() -> None:
    schema = json.loads((chart.CHART / "values.schema.json").read_text())
    assert set(schema["properties"]) == {*yaml.safe_load((chart.CHART / "values.yaml").read_text()), "global"}
    assert schema["additionalProperties"] is False


def test_every_value_is_used_by_a_template() -> None:
    templates = "".join(path.read_text() for path in (chart.CHART / "templates").iterdir())
    for name in yaml.safe_load((chart.CHART / "values.yaml").read_text()):
        assert f".Values.{name}" in templates, name


def test_the_chart_makes_a_password_for_every_user_of_the_log() -> None:
    text = (chart.CHART / "templates" / "secrets.yaml").read_text()
    (users,) = re.findall(r"\$users := list (.*) }}", text)
    assert re.findall(r'"([a-z-]+)"', users) == [*SERVICES, *PEOPLE]


def helm(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm_binary(), *argv], capture_output=True, text=True, check=False)


@needs_helm
@pytest.mark.parametrize("preset", PRESETS)
def test_helm_renders_what_the_command_installs(preset: str) -> None:
    values = chart.CHART / f"values-{preset}.yaml"
    done = helm(
        "template", "meshlog", str(chart.CHART), "-n", "meshlog-system", "-f", str(values), "--kube-version", "1.33"
    )
    assert done.returncode == 0, done.stderr
    rendered = {_key(one): one for one in yaml.safe_load_all(done.stdout) if one}
    for one in control_plane(PRESETS[preset]):
        if one["kind"] == "Namespace":
            continue
        theirs = rendered.pop(_key(one))
        assert _comparable(theirs) == _comparable(one)
    assert {kind for kind, _ in rendered} <= {"Secret", "MeshConfig", "PodDisruptionBudget"}
    ours = {one["metadata"]["name"]: set(one["stringData"]) for one in log_secrets(PRESETS[preset])}
    secrets = {name: set(one["data"]) for (kind, name), one in rendered.items() if kind == "Secret"}
    assert secrets == ours


@needs_helm
@pytest.mark.parametrize(
    ("version", "settings", "expected"),
    [
        ("1.28", (), ("false", "0")),
        ("1.29", ("proxy_mark=1337",), ("true", "1337")),
        ("1.33", ("native_sidecars=false",), ("false", "0")),
    ],
)
def test_helm_gives_pods_native_sidecars_where_the_cluster_has_them(
    version: str, settings: tuple[str, ...], expected: tuple[str, str]
) -> None:
    flags = [flag for one in settings for flag in ("--set", one)]
    done = helm("template", "meshlog", str(chart.CHART), "--kube-version", version, *flags)
    assert done.returncode == 0, done.stderr
    found = {_key(one): one for one in yaml.safe_load_all(done.stdout) if one}
    (container,) = found["Deployment", "meshlog-injector"]["spec"]["template"]["spec"]["containers"]
    values = {one["name"]: one.get("value") for one in container["env"]}
    assert (values["MESHLOG_NATIVE_SIDECARS"], values["MESHLOG_PROXY_MARK"]) == expected


@needs_helm
def test_helm_lints_it_and_refuses_a_typing_error() -> None:
    assert helm("lint", str(Path(chart.CHART))).returncode == 0
    done = helm("template", "meshlog", str(chart.CHART), "--set", "edgse=3", "--kube-version", "1.33")
    assert done.returncode != 0
    assert "edgse" in done.stderr


def _key(one: dict[str, Any]) -> tuple[str, str]:
    return one["kind"], one["metadata"]["name"]


def _comparable(one: dict[str, Any]) -> Any:
    """Without the digest of the log's configuration, which Helm makes of other things."""
    text = re.sub(r'("meshlog\.io/configuration": )"[0-9a-f]*"', r"\1", json.dumps(one, sort_keys=True))
    return json.loads(text.replace('"meshlog.io/configuration": }', '"meshlog.io/configuration": null}'))
