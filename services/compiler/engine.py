"""The incremental engine: answers that know what they were made from.

A *query* is a plain function of a context and some arguments:

    @query
    def doubled(sheet: Sheet, name: str) -> int:
        return 2 * (sheet.numbers.get(name) or 0)

Call it like a function. Its answer is kept, and so is what it read on the way: input cells (`InputMap`, `Index`)
and other queries. No cache key or dependency is declared; reading *is* depending, and reading an entry that is
absent depends on its absence.

    sheet.numbers.put("a", 1)          # an input changes: what read it, directly or not, is now *in doubt*
    doubled(sheet, "a")                # in doubt → ask what it read, in the order it read it → run again or not

**Early cutoff.** An answer in doubt is not run again at once: first its own dependencies are brought up to date, and
only if one of them has really *changed* (`!=`) the function runs. If it gives an equal answer, its readers see no
change, and the recomputation ends there. So answers must compare by value (structs, tuples, bytes).

**Cost follows the change.** Doubt spreads only along recorded dependencies. *Observed* queries are the roots:
`refresh` brings up to date those that are in doubt, and returns those that changed. Nothing else is visited. A query
without readers and observers is forgotten with its edges, so that deleting costs what adding did.

**Provenance.** Input cells carry where they came from (an event); `provenance` walks the same recorded dependencies
and collects it. What a resource was made from is thus not a second bookkeeping that could be wrong.

Functions must be pure: same inputs, same answer; they read inputs through the engine only. An exception is an answer
too: it is kept, reported to observers, raised to readers, and gone when a dependency changes. A query that needs its
own answer raises `QueryCycleError`. One thread at a time.

The idea is that of build systems and of rustc's query engine (red-green marking): A. Mokhov, N. Mitchell,
S. Peyton Jones, "Build systems à la carte", 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast

from services.compiler.time_slices import Steps, finished

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K")
V = TypeVar("V")
M = TypeVar("M")


class QueryCycleError(RuntimeError):
    """A query needs its own answer. A bug of the queries, whatever the inputs are."""


class QueryContext(Protocol):
    """What queries are asked of: anything that holds an engine (and, for the queries, its inputs)."""

    @property
    def engine(self) -> Engine:
        """The engine that keeps the answers."""
        ...


C = TypeVar("C", bound=QueryContext)


class Cell:
    """One input value that queries may depend on, present or absent."""

    __slots__ = ("changed_at", "dependents", "home", "key", "source", "value")

    def __init__(self, home: dict[Any, Cell], key: Any) -> None:
        self.home = home
        self.key = key
        self.value: Any = None
        self.source: Any = None
        """Where the value came from; none while the entry is absent, and for entries of an index."""
        self.changed_at = 0
        self.dependents: set[QueryNode] = set()


class QueryNode:
    """One query with its arguments, its answer, and what the answer was made from."""

    __slots__ = (
        "arguments",
        "changed_at",
        "context",
        "dependencies",
        "dependents",
        "doubtful",
        "error",
        "observers",
        "query",
        "reported_at",
        "running",
        "suspect",
        "value",
        "verified_at",
    )

    def __init__(self, query: Query[Any, Any, Any], context: QueryContext, arguments: tuple[Any, ...]) -> None:
        self.query = query
        self.context = context
        self.arguments = arguments
        self.value: Any = None
        self.error: Exception | None = None
        self.dependencies: tuple[Cell | QueryNode, ...] = ()
        self.dependents: set[QueryNode] = set()
        self.changed_at = 0
        self.verified_at = 0
        self.reported_at = 0
        self.doubtful = True
        self.suspect: Cell | QueryNode | None = None
        """The one dependency that the doubt comes from; none: more than one."""
        self.running = False
        self.observers = 0

    def __repr__(self) -> str:
        return f"{self.query.name}{self.arguments!r}"


class Query(Generic[C, P, R]):
    """A function whose answers the engine keeps; made by `query`."""

    def __init__(self, function: Callable[Concatenate[C, P], R]) -> None:
        self.function = function
        self.name = function.__name__
        self.aside = False
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__

    def __call__(self, context: C, /, *arguments: P.args, **keywords: P.kwargs) -> R:
        """The answer, up to date; the query that asks depends on it."""
        if keywords:
            raise TypeError(f"{self.name} takes its arguments by position: they are its identity")
        return cast("R", context.engine.read(context, self, arguments))

    def __repr__(self) -> str:
        return f"query {self.name}"


def query(function: Callable[Concatenate[C, P], R]) -> Query[C, P, R]:
    """Make a plain function of a context and hashable, positional arguments a query."""
    return Query(function)


def exception_query(function: Callable[Concatenate[C, P], R]) -> Query[C, P, R]:
    """A query that looks at many inputs for the few that are an exception.

    As long as it finds none, `provenance` passes over it: an answer is not made from everything that was looked at.
    """
    found = Query(function)
    found.aside = True
    return found


class Engine:
    """Keeps the answers of queries, and brings them up to date when inputs change."""

    def __init__(self) -> None:
        self.revision = 1
        """Grows with every change of an input."""
        self.runs = 0
        """How often a query's function ran: what tests and benchmarks count."""
        self._nodes: dict[tuple[Query[Any, Any, Any], tuple[Any, ...]], QueryNode] = {}
        self._reading: list[dict[Cell | QueryNode, None]] = []
        self._in_doubt: dict[Query[Any, Any, Any], dict[QueryNode, None]] = {}
        self._idle: list[QueryNode | Cell] = []

    def __len__(self) -> int:
        return len(self._nodes)

    # Reading

    def read(self, context: QueryContext, query: Query[Any, Any, Any], arguments: tuple[Any, ...]) -> Any:
        """The answer of a query, up to date; the query that is running now depends on it from here on."""
        node = self._node(context, query, arguments)
        if node.doubtful:
            self._bring_up_to_date(node)
        if self._reading:
            self._reading[-1][node] = None
        elif not node.observers and not node.dependents:
            self._idle.append(node)
        if node.error is not None:
            raise node.error
        return node.value

    def note_read(self, cell: Cell) -> None:
        """Record that the running query, if any, read an input cell."""
        if self._reading:
            self._reading[-1][cell] = None

    def _node(self, context: QueryContext, query: Query[Any, Any, Any], arguments: tuple[Any, ...]) -> QueryNode:
        key = (query, arguments)
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = QueryNode(query, context, arguments)
        return node

    # Changing

    def changed(self, cell: Cell) -> None:
        """An input cell has another value now: put what was made from it in doubt."""
        if self._reading:
            raise RuntimeError("a query must not change inputs")
        self.revision += 1
        cell.changed_at = self.revision
        pending: list[Cell | QueryNode] = [cell]
        while pending:
            suspect = pending.pop()
            for node in suspect.dependents:
                if node.doubtful:
                    if node.suspect is not suspect:
                        node.suspect = None
                    continue
                node.doubtful = True
                node.suspect = suspect
                if node.observers:
                    self._in_doubt.setdefault(node.query, {})[node] = None
                pending.append(node)

    def _bring_up_to_date(self, node: QueryNode) -> None:
        if node.running:
            raise QueryCycleError(f"{node!r} needs its own answer")
        if node.verified_at:
            node.running = True
            try:
                # A query with ten thousand dependencies checks only the one that changed.
                for dependency in node.dependencies if node.suspect is None else (node.suspect,):
                    if type(dependency) is QueryNode and dependency.doubtful:
                        self._bring_up_to_date(dependency)
                    if dependency.changed_at > node.verified_at:
                        break
                else:
                    node.doubtful = False
                    node.verified_at = self.revision
                    return
            finally:
                node.running = False
        self._run(node)

    def _run(self, node: QueryNode) -> None:
        read: dict[Cell | QueryNode, None] = {}
        self._reading.append(read)
        node.running = True
        self.runs += 1
        value: Any = None
        error: Exception | None = None
        try:
            value = node.query.function(node.context, *node.arguments)
        except QueryCycleError:
            raise
        except Exception as caught:  # noqa: BLE001 (an exception is an answer: kept, reported, raised to readers)
            error = caught
        finally:
            node.running = False
            self._reading.pop()
        for dependency in read:
            dependency.dependents.add(node)
        for dependency in node.dependencies:
            if dependency not in read:
                self._leave(node, dependency)
        node.dependencies = tuple(read)
        if error is not None or node.error is not None or not node.changed_at or value != node.value:
            node.value = node.value if error is not None else value
            node.error = error
            node.changed_at = self.revision
        node.doubtful = False
        node.verified_at = self.revision

    # Observing

    def observe(self, query: Query[C, P, R], context: C, *arguments: Any) -> QueryNode:
        """Keep a query up to date from now on: `refresh` reports it now, and whenever its answer changes."""
        node = self._node(context, query, arguments)
        node.observers += 1
        if node.observers == 1:
            node.reported_at = 0
            self._in_doubt.setdefault(query, {})[node] = None
        return node

    def release(self, node: QueryNode) -> None:
        """Undo one `observe`."""
        node.observers -= 1
        if not node.observers:
            self._in_doubt.get(node.query, {}).pop(node, None)
            self._idle.append(node)

    def refresh(self, query: Query[Any, Any, Any]) -> list[QueryNode]:
        """Bring the observed answers of one query up to date; returns those that changed since they were reported.

        Their order means nothing.
        """
        return finished(self.refreshing(query))

    def refreshing(self, query: Query[Any, Any, Any]) -> Steps[list[QueryNode]]:
        """`refresh` in steps, one for each answer. No input may change before the last of them."""
        changed: list[QueryNode] = []
        for node in self._in_doubt.pop(query, {}):
            if node.doubtful:
                self._bring_up_to_date(node)
            if node.changed_at > node.reported_at:
                node.reported_at = node.changed_at
                changed.append(node)
            yield
        return changed

    # Forgetting

    def forget_unused(self) -> None:
        """Drop the answers, and the cells of absent entries, that have no readers and observers.

        Call it after a round of `refresh`: during one, a query that runs may just have read what looks unused.
        """
        while self._idle:
            node = self._idle.pop()
            if node.dependents:
                continue
            if isinstance(node, Cell):
                if node.source is None:
                    node.home.pop(node.key, None)
                continue
            if node.observers:
                continue
            if self._nodes.pop((node.query, node.arguments), None) is None:
                continue
            for dependency in node.dependencies:
                self._leave(node, dependency)
            node.dependencies = ()

    def _leave(self, node: QueryNode, dependency: Cell | QueryNode) -> None:
        dependency.dependents.discard(node)
        if not dependency.dependents:
            self._idle.append(dependency)

    # Explaining

    def explain(self, query: Query[Any, Any, Any], context: QueryContext, *arguments: Any) -> set[Any]:
        """Sources of every input that the answer of a query, up to date, was made from."""
        node = self._node(context, query, arguments)
        if node.doubtful:
            self._bring_up_to_date(node)
        return self.provenance(node)

    def provenance(self, node: QueryNode) -> set[Any]:
        """Sources of every input that the answer was made from, directly or not."""
        sources: set[Any] = set()
        seen: set[Cell | QueryNode] = {node}
        pending: list[Cell | QueryNode] = [node]
        while pending:
            item = pending.pop()
            if isinstance(item, Cell):
                if item.source is not None:
                    sources.add(item.source)
                continue
            if item.query.aside and not item.value:
                continue
            for dependency in item.dependencies:
                if dependency not in seen:
                    seen.add(dependency)
                    pending.append(dependency)
        return sources
