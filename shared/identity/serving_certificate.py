"""A control-plane service's own TLS certificate, kept current: read the token file, ask, renew at two thirds.

The key reaches OpenSSL through an anonymous file in memory (`memfd_create`): `ssl` takes keys from files only, and a
key has no business on a disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from shared.errors import MeshlogError
from shared.identity.renewal import renewal_delay, retry_delay
from shared.identity.spiffe import SpiffeId
from shared.identity.svid import IssuedSvid
from shared.identity.svid_requester import CertificateRequester
from shared.service.watch_value import Latest

_log = logging.getLogger(__name__)
RESIGN_WINDOW = 2.0
"""Seconds over which renewals are spread when another root signs."""


class ServingCertificate:
    """The newest certificate of this process; `run` it as a task."""

    def __init__(
        self,
        requester: CertificateRequester,
        *,
        token_path: Path,
        spiffe_id: SpiffeId,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._requester = requester
        self._token_path = token_path
        self._spiffe_id = spiffe_id
        self._chance = chance
        self._latest: Latest[IssuedSvid] = Latest()
        self._contexts: list[ssl.SSLContext] = []

    @property
    def current(self) -> IssuedSvid | None:
        """The newest certificate with its key; None before the first."""
        return self._latest.value

    async def wait(self) -> IssuedSvid:
        """The newest certificate, as soon as there is one."""
        return await self._latest.wait()

    def changes(self) -> AsyncIterator[IssuedSvid]:
        """The newest certificate now and after each renewal, for ever."""
        return self._latest.changes()

    async def server_context(self) -> ssl.SSLContext:
        """A server's TLS context, once there is a certificate; later handshakes use later certificates."""
        svid = await self.wait()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        load_into(context, svid)
        self._contexts.append(context)
        return context

    async def run(self) -> None:
        """Obtain and renew for ever; what is in use stays in use while the CA is away."""
        failures = 0
        while True:
            try:
                # A projected token is a small file in memory: reading it blocks nothing.
                token = self._token_path.read_text("ascii").strip()
                svid = await self._requester.request(token, await self._identity())
                for context in self._contexts:
                    load_into(context, svid)
                self._latest.set(svid)
            except (MeshlogError, OSError, UnicodeDecodeError) as error:
                failures += 1
                held = self._latest.value
                _log.warning("no certificate for %s (try %d): %s", self._spiffe_id, failures, error)
                delay = retry_delay(failures, held.lifetime if held else 60.0, self._chance)
            else:
                failures = 0
                delay = renewal_delay(svid.lifetime, self._chance)
                _log.info("certificate %s for %s, renewed in %.0f s", svid.serial, self._spiffe_id, delay)
            await self._until(delay, held.bundle_serial if (held := self._latest.value) is not None else 0)

    async def _identity(self) -> SpiffeId:
        """Our identity in the trust domain that is signed for now."""
        domain = (await self._requester.bundle()).trust_domain
        return SpiffeId(domain, self._spiffe_id.namespace, self._spiffe_id.service_account)

    async def _until(self, delay: float, signed_under: int) -> None:
        """Wait so long, or shorter when another root signs than the one that signed what is held."""
        try:
            async with asyncio.timeout(delay):
                await self._requester.resigned(signed_under)
        except TimeoutError:
            return
        # Not all servers of the control plane at once.
        await asyncio.sleep(min(delay, RESIGN_WINDOW) * self._chance())


def load_into(context: ssl.SSLContext, svid: IssuedSvid) -> None:
    """Replace certificate and key of a context that may be serving."""
    fd = os.memfd_create("svid", os.MFD_CLOEXEC)
    try:
        os.write(fd, svid.key_pem + svid.chain_pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
