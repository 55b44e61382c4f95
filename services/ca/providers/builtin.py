"""The built-in provider: signs leaf certificates with the key of an `Authority`."""

from __future__ import annotations

from functools import partial

from cryptography import x509

from services.ca.core.provider import Provider
from services.ca.core.template import LeafTemplate, sign_leaf
from services.ca.keys.authority import Authority, generate_authority
from services.ca.providers.base import ProviderContext


class BuiltinProvider:
    """Signs with the key of an `Authority`."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority

    @property
    def roots(self) -> list[x509.Certificate]:
        """See `Provider`."""
        return [self.authority.anchor]

    @property
    def not_after(self) -> float:
        """See `Provider`: the earliest end in the chain, because some CAs sign intermediates that outlive them."""
        authority = self.authority
        chain = (authority.certificate, *authority.above, authority.anchor)
        return min(one.not_valid_after_utc.timestamp() for one in chain)

    @property
    def sealing_keys(self) -> tuple[bytes, ...]:
        """See `Provider`."""
        return self.authority.sealing_keys

    async def sign(self, template: LeafTemplate) -> list[x509.Certificate]:
        """See `Provider`."""
        leaf = sign_leaf(template, self.authority.certificate, self.authority.key)
        return [leaf, *self.authority.intermediates]

    async def refresh(self) -> None:
        """See `Provider`."""


async def builtin(context: ProviderContext) -> Provider:
    """Make the built-in provider of a root. Raises `AuthorityError` if its keys cannot be used."""
    create = partial(generate_authority, context.trust_domain, clock=context.clock)
    return BuiltinProvider(await context.store.load_or_create(context.trust_domain, create))
