"""What one proxy held, found in commits that are read as little as possible."""

from __future__ import annotations

import msgspec
import pytest

from cli.history.single_proxy_view import CommitOutline, read_outline, single_proxy_snapshot
from shared.records.snapshot import CDS, Commit, Proxy, Resource, SnapshotError, ViewChange, encode_commit

KEY = "c/shop/web"


def commit(version: int, **parts: object) -> CommitOutline:
    body = Resource(type_url=CDS, name=f"of-{version}", hash=f"{version}", body=b"")
    proxy = Proxy(cluster="c", namespace="shop", pod="web", uid="u", service_account="a", workload_class="web")
    made = Commit(
        format=1,
        version=version,
        parent=version - 1,
        epoch="e",
        build="b",
        resources=[body],
        views={"web": ViewChange(put={CDS: {body.name: body.hash}}), "other": ViewChange(put={})},
        proxies={KEY: proxy},
    )
    return msgspec.structs.replace(read_outline(encode_commit(made)), **parts)


def test_it_holds_what_all_commits_together_gave_it() -> None:
    found = single_proxy_snapshot([commit(1), commit(2)], KEY)
    assert found.views == {"web": {CDS: {"of-1": "1", "of-2": "2"}}}
    assert [name for _, name, _ in sorted(found.resources)] == ["of-1", "of-2"]


def test_a_proxy_that_is_not_there_holds_nothing() -> None:
    assert not single_proxy_snapshot([commit(1)], "c/shop/other").proxies


@pytest.mark.parametrize("part", ["views", "proxies"])
def test_a_part_that_is_no_part_of_a_commit_is_an_error_with_a_sentence(part: str) -> None:
    key = {"views": "web", "proxies": KEY}[part]
    broken = commit(2, **{part: {key: msgspec.Raw(msgspec.msgpack.encode("nonsense"))}})
    with pytest.raises(SnapshotError, match="cannot be read as a commit"):
        single_proxy_snapshot([commit(1), broken], KEY)
