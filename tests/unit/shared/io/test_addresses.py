"""Addresses in one spelling, and those that belong to no pod and no Service."""

from __future__ import annotations

import pytest

from shared.io.addresses import canonical, reserved


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10.244.0.25", "10.244.0.25"),
        ("FD00:0:0::21", "fd00::21"),
        ("fd00:0000:0000:0000:0000:0000:0000:0021", "fd00::21"),
        ("10.244.0.025", None),
        ("10.244.0", None),
        ("0x0af40019", None),
        ("10.244.0.25/32", None),
        (" 10.244.0.25", None),
        ("10.244.0.25\0", None),
        ("fd00::21%eth0", None),
        ("[fd00::21]", None),
        ("fd00::g", None),
        ("web.example.com", None),
        ("", None),
    ],
)
def test_an_address_has_one_spelling(text: str, wanted: str | None) -> None:
    assert canonical(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",  # noqa: S104
        "127.0.0.1",
        "127.255.0.9",
        "169.254.169.254",
        "224.0.0.251",
        "239.1.2.3",
        "255.255.255.255",
        "::",
        "::1",
        "::a9fe:a9fe",
        "::ffff:169.254.169.254",
        "::ffff:10.244.0.25",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "fe80::1",
        "ff02::fb",
    ],
)
def test_an_address_that_means_something_else_is_no_pods_and_no_services(text: str) -> None:
    assert reserved(text)


@pytest.mark.parametrize(
    "text", ["10.244.0.25", "192.168.1.1", "100.64.0.1", "240.0.0.1", "8.8.8.8", "fd00::21", "2001:db8::1"]
)
def test_other_addresses_may_be_a_pods(text: str) -> None:
    assert not reserved(text)


def test_tests_may_give_pods_addresses_of_loopback() -> None:
    assert not any(reserved(text, loopback=False) for text in ("127.0.0.1", "::1"))
    assert reserved("169.254.169.254", loopback=False)


def test_what_is_no_address_is_an_error() -> None:
    for text in ("nonsense", "fd00::g"):
        with pytest.raises(ValueError, match=text):
            reserved(text)
