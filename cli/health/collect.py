"""Collects facts of a mesh from Kubernetes and the log concurrently, each bounded and independent of the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from cli.health import cluster_facts, log_facts
from cli.health.facts import ClusterFacts, HealthFacts, LogFacts
from cli.history.log_source import NO_LOG, LogSource
from cli.kubernetes.api_client import Api, ApiRefusedError
from shared.errors import BadInputError
from shared.eventlog.protocol import EventLogError

LOOK_GRACE = 2.5
"""Seconds beyond `within` for giving up on silent peers and printing the facts that were collected."""
ANSWERS = 2.0
"""Seconds for the first answer of the log, if there is more time than that."""

Session = Callable[[], AbstractAsyncContextManager[Api]]
Opening = Callable[[float], AbstractAsyncContextManager[LogSource]]
"""Opens the log, with so many seconds for its first answer."""


async def look(
    session: Session | None,
    opening: Opening | None,
    *,
    namespace: str,
    mesh_name: str,
    within: float,
    cache: dict[int, bool] | None = None,
) -> HealthFacts:
    """All facts that can be read `within` so many seconds. A side that is None is not asked.

    Raises `BadInputError` for a kubeconfig or a file that cannot be read; a peer that does not answer is a fact.
    """
    (of_cluster, cluster_away), (of_log, live, log_away) = await asyncio.gather(
        _cluster(session, namespace, mesh_name, within), _log(opening, within, {} if cache is None else cache)
    )
    return HealthFacts(
        cluster=of_cluster, cluster_away=cluster_away, log=of_log, log_away=log_away, live=live, now=time.time_ns()
    )


async def _cluster(
    session: Session | None, namespace: str, mesh_name: str, within: float
) -> tuple[ClusterFacts | None, str]:
    if session is None:
        return None, ""
    try:
        async with asyncio.timeout(within), session() as api:
            return await cluster_facts.read(api, namespace, mesh_name), ""
    except TimeoutError:
        return None, f"the Kubernetes API did not answer within {within:g} s"
    except ApiRefusedError as error:
        return None, str(error)


async def _log(opening: Opening | None, within: float, cache: dict[int, bool]) -> tuple[LogFacts | None, bool, str]:
    if opening is None:
        return None, False, ""
    try:
        async with asyncio.timeout(within), opening(min(ANSWERS, within)) as source:
            return await log_facts.read(source, cache), source.archive is None, ""
    except TimeoutError:
        return None, True, f"the log did not answer within {within:g} s"
    except (EventLogError, BadInputError) as error:
        if isinstance(error, BadInputError) and error.code != NO_LOG:
            raise
        # Without the subject of the log that it is about, since no user asked for a subject.
        return None, True, f"the log cannot be read now: {error.sentence}"
