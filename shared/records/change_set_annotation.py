"""The annotation `meshlog.io/change-set`, on objects that are applied together.

`ID/SIZE` for objects of one namespace; `ID/NAMESPACE=SIZE,NAMESPACE=SIZE` for those of several, with an empty name for
objects that are in none. Each namespace is counted by itself: a user who may write in one namespace cannot
complete, or end early, another's part by its id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def stamp(identity: str, namespaces: Iterable[str]) -> str:
    """The annotation of every object of a set; `namespaces`: that of each object, empty for one that is in none."""
    sizes = Counter(namespaces)
    if len(sizes) == 1:
        return f"{identity}/{sizes.total()}"
    return f"{identity}/{','.join(f'{namespace}={size}' for namespace, size in sorted(sizes.items()))}"
