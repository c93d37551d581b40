"""What a chat template is made of in our sandbox: watched loops, and the names transformers gives it.

The sandbox itself: `template_sandbox.py`.
"""

from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

# No template can write these names, for they hold a blank.
EACH, MEASURED = "each item", "measured value"


class Watched(NodeTransformer):
    """Puts a check on every loop and every value that is built of others."""

    def __init__(self, environment: jinja2.Environment) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.For:
        """A loop, with a check at each of its items."""
        self.generic_visit(node)
        node.iter = self._filtered(node.iter, EACH)
        return node

    def visit_List(self, node: nodes.Node) -> nodes.Node:
        """A list, dictionary or joined text, measured when it is made."""
        self.generic_visit(node)
        return self._filtered(node, MEASURED)

    visit_Dict = visit_Concat = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        """A tuple, measured likewise, but for the names that a loop or `set` gives."""
        self.generic_visit(node)
        return self._filtered(node, MEASURED) if node.ctx == "load" else node

    def _filtered(self, node: nodes.Node, name: str) -> nodes.Filter:
        found = nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)
        return cast(nodes.Filter, found.set_environment(self._environment))


class Generation(Extension):
    """`{% generation %}` marks answers for trainers that ask the template which they are; we do not."""

    tags = {"generation"}  # noqa: RUF012  # as in Jinja

    def parse(self, parser: Parser) -> nodes.Node:
        """What stands between the marks."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Names(Namespace):
    """A namespace without underscored names, and with nothing to print: two can hold each other."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that `namespace(self=...)` works
        self, given = cast(Names, args[0]), args[1:]
        values = dict(*given, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name such as {name!r}")


class Dictionaries:
    """`dict` for templates: makes dictionaries, and is no way to Python's own class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """A dictionary."""
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """A dictionary of these keys."""
        return dict.fromkeys(*args, **kwargs)


def raise_exception(message: str) -> NoReturn:
    """How a template says that it does not take a conversation."""
    raise jinja2.TemplateError(message)
