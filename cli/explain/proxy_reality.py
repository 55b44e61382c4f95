"""Compares a decision with the state of the proxies: the version that each acknowledged, rejected, or did not receive.

A decision is derived from what was published. A proxy that has rejected a version, or not acknowledged it, keeps its
previous configuration and may behave differently.
"""

from __future__ import annotations

from collections.abc import Sequence

from cli.arrival.log_tracker import tracked
from cli.calls.question import CallAnswer
from cli.history.log_source import LogSource
from cli.state.mesh_status import ProxyState, proxy_states

_NAMED = 5


async def remarks(source: LogSource, answers: Sequence[CallAnswer], *, version: int) -> list[str]:
    """Return a sentence for each proxy of the calls that is not in sync.

    Empty if all are in sync, if `version` is not the newest, or if the source is an exported file, which is outdated.
    """
    if source.archive is not None:
        return []
    tracker = await tracked(source)
    if tracker.snapshot.version != version:
        return []
    states = {state.proxy: state for state in proxy_states(tracker)}
    found = [states[proxy] for proxy in _proxies(answers) if proxy in states and states[proxy].state != "in sync"]
    sentences = [_sentence(state) for state in found[:_NAMED]]
    if len(found) > _NAMED:
        sentences.append(f"{len(found) - _NAMED} more proxies of this call are not in sync: `meshlog proxies`")
    return sentences


def _proxies(answers: Sequence[CallAnswer]) -> list[str]:
    """Return `namespace/pod` of both ends of each call, without duplicates, callers first."""
    callers = [answer.caller for answer in answers]
    called = [way.pod.partition("/")[2] for answer in answers for way in answer.ways if way.pod]
    return list(dict.fromkeys([*callers, *called]))


def _sentence(state: ProxyState) -> str:
    meaning = {
        "refusing": "it goes on with what it held before",
        "behind": "until it has acknowledged, it goes on with what it holds",
        "gone": "no edge can reach it: it goes on with what it held, if it still runs",
        "never connected": "it has received nothing, so calls by it or to it fail",
    }.get(state.state, "it may do otherwise")
    return f"proxy {state.proxy} is {state.state} ({state.reason}): {meaning}"
