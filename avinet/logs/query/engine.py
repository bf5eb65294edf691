"""What a renderer of one engine's SQL is: it replaces our own nodes, makes parameters of values, and writes the text."""

from collections.abc import Callable
from typing import Any, Protocol

from sqlglot import exp

from avinet.logs.query.nodes import OWN, Bound
from avinet.logs.query.rendered import Rendered
from avinet.logs.query.shapes import Query
from avinet.logs.query.sql import Statement, statement_of

Bind = Callable[[Any], exp.Expr]
"""Make a parameter of a value."""


class Engine(Protocol):
    """One engine's SQL."""

    dialect: Any
    """Of sqlglot."""

    def placeholder(self, name: str, value: Any) -> exp.Expr:
        """How a parameter stands in the text."""

    def replaced(self, node: exp.Expr, bind: Bind) -> exp.Expr:
        """What one of our own nodes is here; the answer has none of them left."""


def render(query: Query, engine: Engine, *, approximate: bool = False) -> Rendered:
    """``query`` in ``engine``'s SQL."""
    return render_statement(statement_of(query, approximate=approximate), engine)


def render_statement(statement: Statement, engine: Engine) -> Rendered:
    """A statement in ``engine``'s SQL."""
    parameters: dict[str, Any] = {}

    def bind(value: Any) -> exp.Expr:
        name = f"p{len(parameters)}"
        parameters[name] = value
        return engine.placeholder(name, value)

    def replace(node: exp.Expr) -> exp.Expr:
        if isinstance(node, Bound):
            return bind(node.this)
        if not isinstance(node, OWN):
            return node
        for name, child in node.args.items():
            if isinstance(child, exp.Expr):
                node.set(name, child.transform(replace, copy=False))
        return engine.replaced(node, bind)

    tree = statement.tree.transform(replace, copy=False)
    return Rendered(tree.sql(dialect=engine.dialect), parameters, statement.columns, statement.limit)
