"""Passwords of the embedded mesh's log: made once, for their owner's eyes, and in nothing but their own files."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml

from cli.embedded import lifecycle, log_credentials
from deploy.install.control_plane import control_plane
from deploy.install.nats_objects import configuration
from deploy.install.profile import SERVICES
from deploy.nats import PEOPLE
from shared.errors import BadInputError

ADDRESS = ("127.0.0.1", 4222)


def ha(state: Path) -> Path:
    made = log_credentials.prepare(state, lifecycle.profile(state, ha=True))
    assert made is not None
    return made


def test_each_service_and_each_kind_of_person_has_a_password_of_its_own(tmp_path: Path) -> None:
    secrets = {one["metadata"]["name"]: one["stringData"] for one in yaml.safe_load_all(ha(tmp_path).read_text())}
    passwords = [secrets[f"meshlog-nats-{name}"]["password"] for name in (*SERVICES, *PEOPLE)]
    assert len(set(passwords)) == len(passwords)
    objects = msgspec.json.encode(control_plane(lifecycle.profile(tmp_path, ha=True))).decode()
    assert not [password for password in passwords if password in objects]


def test_they_stay_the_same_from_one_start_to_the_next(tmp_path: Path) -> None:
    first = ha(tmp_path).read_text()
    assert ha(tmp_path).read_text() == first


def test_nobody_but_their_owner_may_read_them(tmp_path: Path) -> None:
    files = [ha(tmp_path), *(tmp_path / log_credentials.DIRECTORY).iterdir()]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert (tmp_path / log_credentials.DIRECTORY).stat().st_mode & 0o777 == 0o700


def test_the_command_connects_as_the_operator_and_trusts_the_servers_own_ca(tmp_path: Path) -> None:
    ha(tmp_path)
    access = log_credentials.access(tmp_path, ADDRESS, name="meshlog")
    assert (access.user, access.servers, access.inbox) == ("operator", ("tls://localhost:4222",), "_INBOX_operator")
    assert access.tls is not None
    assert len(access.tls.get_ca_certs()) == 1
    text = ha(tmp_path).read_text()
    assert Path(access.password_file).read_text() in text
    assert not [word for word in log_credentials.settings(tmp_path, ADDRESS) if word in text.split()], (
        "only names of files"
    )


def test_a_simple_mesh_has_them_as_well(tmp_path: Path) -> None:
    """A pod that reaches the log has no password, and the log is on the pods' network."""
    first = ha(tmp_path).read_text()
    simple = lifecycle.profile(tmp_path)
    made = log_credentials.prepare(tmp_path, simple)
    assert made is not None
    assert made.read_text() == first
    assert log_credentials.access(tmp_path, ADDRESS, name="meshlog").accounts
    assert "--nats-accounts" in log_credentials.settings(tmp_path, ADDRESS)
    assert "accounts {" in configuration(simple)
    objects = msgspec.json.encode(control_plane(simple)).decode()
    passwords = [one["stringData"].get("password", "-") for one in yaml.safe_load_all(first)]
    assert not [password for password in passwords if len(password) > 1 and password in objects]


def test_a_log_that_nobody_secured_is_spoken_to_in_the_clear(tmp_path: Path) -> None:
    """One of an older build, which may run while the command is newer."""
    access = log_credentials.access(tmp_path, ADDRESS, name="meshlog")
    assert (access.user, access.tls, access.servers) == ("", None, ("nats://127.0.0.1:4222",))
    assert log_credentials.settings(tmp_path, ADDRESS) == ["--nats-url", "nats://127.0.0.1:4222"]


@pytest.mark.parametrize("damage", ["", "{", "kind: Secret", "- secret-word"])
def test_a_damaged_file_is_named_and_not_shown(tmp_path: Path, damage: str) -> None:
    ha(tmp_path).write_text(damage)
    with pytest.raises(BadInputError, match=r"log-secrets\.yaml.*restore it or remove it") as caught:
        ha(tmp_path)
    assert "secret-word" not in str(caught.value)
