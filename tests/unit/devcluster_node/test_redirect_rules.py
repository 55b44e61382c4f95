"""The redirect's rules say what the settings say, and nonsense is refused with a sentence."""

from __future__ import annotations

import pytest

from services.injector.core.redirect_rules import RedirectRules, compile_redirect
from services.injector.sidecar_init import main
from shared.errors import BadInputError


def _chain(wanted: RedirectRules, name: str) -> list[str]:
    table = compile_redirect(wanted)
    (chain,) = [chain for chain in table.chains if chain.name == name]
    return [" ".join(statement.text for statement in rule) for rule in chain.rules]


def test_the_order_of_the_outbound_rules_is_the_one_that_users_know() -> None:
    wanted = RedirectRules(
        proxy_uid=1500,
        excluded_outbound_ports=(6379,),
        excluded_outbound_networks=("10.9.0.0/16",),
        excluded_interfaces=("net1",),
        local_proxy_ip="10.244.0.9",
    )
    assert _chain(wanted, "outbound") == [
        # Envoy's own readiness asks its admin interface, which listens on 127.0.0.1 only.
        'oifname "lo" ip daddr 127.0.0.1/32 meta skuid 1500 meta l4proto tcp th dport 15000 return',
        'oifname "lo" ip daddr 127.0.0.1/32 meta skuid 1500 dnat ip to 10.244.0.9',
        'oifname "lo" meta skuid 1500 ip daddr != 127.0.0.1/32 goto redirect-inbound',
        'oifname "lo" meta skuid 1500 ip6 daddr != ::1/128 goto redirect-inbound',
        'oifname "lo" meta skuid != 1500 return',
        "meta skuid 1500 return",
        "ip daddr 127.0.0.1/32 return",
        "ip6 daddr ::1/128 return",
        'oifname "net1" return',
        "ip daddr 10.9.0.0/16 return",
        "meta l4proto tcp th dport 6379 return",
        "goto redirect-outbound",
    ]


def test_inbound_leaves_only_those_probe_ports_alone_that_the_proxy_listens_on() -> None:
    """On another an application would be reached in plain text, past the policy."""
    rules = _chain(RedirectRules(proxy_mark=1, probe_ports=(15902,)), "inbound")
    assert [rule.split()[-2] for rule in rules[:-1]] == ["15902"]


def test_inbound_leaves_the_probe_listeners_alone() -> None:
    rules = _chain(RedirectRules(proxy_mark=1, excluded_inbound_ports=(22,), excluded_interfaces=("net1",)), "inbound")
    assert rules[0] == 'iifname "net1" return'
    assert rules[1] == "meta l4proto tcp th dport 22 return"
    assert [rule.split()[-2] for rule in rules[2:-1]] == ["15901", "15902", "15903"]
    assert rules[-1] == "goto redirect-inbound"


def test_with_included_networks_all_others_are_left_alone() -> None:
    rules = _chain(RedirectRules(proxy_mark=1, included_outbound_networks=("10.0.0.0/8", "fd00::/8")), "outbound")
    assert rules[-3:] == [
        "ip daddr 10.0.0.0/8 goto redirect-outbound",
        "ip6 daddr fd00::/8 goto redirect-outbound",
        "return",
    ]


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (RedirectRules(proxy_mark=1, excluded_inbound_ports=(0,)), "0 is no port"),
        (RedirectRules(proxy_mark=1, excluded_outbound_ports=(65536,)), "65536 is no port"),
        (RedirectRules(proxy_mark=1, excluded_outbound_networks=("10.0.0.0/33",)), "is no CIDR"),
        (RedirectRules(proxy_mark=1, included_outbound_networks=("here",)), "is no CIDR"),
        (RedirectRules(proxy_mark=1, excluded_interfaces=("a-name-too-long-for-linux",)), "no name of a network"),
        (RedirectRules(proxy_mark=1, local_proxy_ip="::1"), "no IPv4 address"),
        (RedirectRules(proxy_mark=0), "0 is no mark"),
        (RedirectRules(), "by --proxy-mark or by --proxy-uid"),
        (RedirectRules(proxy_mark=1, proxy_uid=1500), "by --proxy-mark or by --proxy-uid"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(wanted: RedirectRules, sentence: str) -> None:
    with pytest.raises(BadInputError, match=sentence):
        compile_redirect(wanted)


@pytest.mark.parametrize(
    "argv",
    [
        ["--proxy-mark", "1", "--exclude-outbound-ports", "80,http"],
        ["--proxy-mark", "1", "--exclude-outbound-cidrs", "10.0.0.0/8,nonsense"],
        ["--proxy-mark", "one"],
        ["--no-such-option"],
        [],
    ],
)
def test_bad_arguments_end_with_two_and_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*argv, "--dry-run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_dry_run_lists_the_rules_and_needs_no_rights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--proxy-uid", "1500", "--exclude-outbound-ports", "6379, 5432", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "redirect to :15003" in printed
    assert "th dport 5432 return" in printed
