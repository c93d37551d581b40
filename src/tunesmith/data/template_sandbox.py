"""Chat templates come from strangers and run on every row: a sandbox with limits of time and size.

Jinja's own sandbox keeps a template away from Python, but lets it loop for days and fill the memory from a
line of text. Here every loop, call, filter and join checks the time spent, and whatever can make much out of
little (`*`, `replace`, `join`, padding, lists in lists) is measured before it is made. The filters and names
are those that transformers gives to chat templates; a few that no chat template needs are left out.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn, TypeVar, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunesmith.data.template_parts import (
    EACH,
    MEASURED,
    Dictionaries,
    Generation,
    Names,
    Watched,
    raise_exception,
)

SECONDS = 2.0
"""Processor time of one rendering; a long conversation takes milliseconds."""
CHARACTERS, TIMES_INPUT = 1_000_000, 20
"""Most of anything a template makes: so many characters, and this many times what it was given."""
PARTS, PARTS_A_MESSAGE = 100_000, 100
"""Most parts of a list or dictionary, those within its parts counted too."""
TEMPLATE_CHARACTERS = 262_144
"""Longest template; the longest in use have about 30,000."""
LARGEST_BITS = 4096

# They can make much of little in ways that are hard to foresee, or differ from call to call.
_LEFT_OUT = ("urlize", "wordwrap", "xmlattr", "pprint", "random")
_FORBIDDEN_METHODS = {"translate", "maketrans", "encode"}
_DYNAMIC_WIDTH = re.compile(r"%[^%a-zA-Z]*\*|\{[^{}]*\{")
# What compiled templates pass to every call inside a loop or block.
_OF_JINJA = ("_loop_vars", "_block_vars")
_LISTS: tuple[type, ...] = (list, tuple, set, frozenset, type({}.keys()), type({}.values()), type({}.items()))
_TAKE_A_WIDTH = {"center", "ljust", "rjust", "zfill", "expandtabs", "indent", "batch", "slice", "round"}
_LONGEST_MARK = 16

T = TypeVar("T")


class TooCostly(jinja2.TemplateError):
    """The template would take too much time or memory."""


class ChatTemplate:
    """A compiled template.

    Args:
        text: the Jinja text.

    Raises:
        jinja2.TemplateError: if it is no template, or too long.
    """

    def __init__(self, text: str) -> None:
        if len(text) > TEMPLATE_CHARACTERS:
            raise TooCostly(f"it has {len(text)} characters, and at most {TEMPLATE_CHARACTERS} are taken")
        self._sandbox = _Sandbox()
        self._template = _as_template_error(lambda: self._sandbox.from_string(text))

    def render(
        self, messages: list[dict[str, str]], *, add_generation_prompt: bool, tokens: Mapping[str, str]
    ) -> str:
        """The text of a conversation.

        Args:
            messages: role, content and what else the template may read.
            add_generation_prompt: whether the start of an answer comes last.
            tokens: special tokens by name, such as `eos_token`.

        Raises:
            jinja2.TemplateError: if the template refuses the conversation, fails, reaches for Python
                (`SecurityError`), or costs too much (`TooCostly`).
        """
        given = sum(len(value) + 1 for message in messages for value in message.values())
        parts = PARTS + PARTS_A_MESSAGE * len(messages)
        self._sandbox.begin(most=CHARACTERS + TIMES_INPUT * given, most_parts=parts)
        return _as_template_error(
            lambda: self._template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **tokens,
            )
        )


def _as_template_error(work: Callable[[], T]) -> T:
    """Whatever a template does wrong comes out as one kind of error."""
    try:
        return work()
    except jinja2.TemplateError:
        raise
    except (RecursionError, MemoryError) as error:
        raise TooCostly("it goes too deep") from error
    # A template is a program: it divides by zero, misses keys and nests loops deeper than Python compiles.
    except Exception as error:
        raise jinja2.TemplateError(f"{type(error).__name__}: {error}") from error


class _Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one template, with the budget of the rendering under way."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, loopcontrols],
            optimized=False,  # constants would be computed, and grow, while it compiles
            finalize=self.measured,
        )
        self._most, self._most_parts = CHARACTERS, PARTS
        self._wall_end = self._end = 0.0
        self.concat = self._concat  # type: ignore[method-assign]
        for name in _LEFT_OUT:
            del self.filters[name]
        del self.globals["lipsum"]
        own = {"join": self._join, "replace": self._replace, "format": self._format, "tojson": self._tojson}
        self.filters |= own | {"sum": self._sum(self.filters["sum"])}
        self.filters = {name: self._guarded(name, function) for name, function in self.filters.items()}
        self.filters |= {EACH: self._each, MEASURED: self.measured}
        self.globals |= {
            "raise_exception": raise_exception,
            "strftime_now": lambda form: datetime.now().strftime(form),
            "dict": Dictionaries(),
            "namespace": Names,
        }

    def begin(self, *, most: int, most_parts: int) -> None:
        """A new rendering, of which nothing may be larger than `most` characters or `most_parts` parts."""
        self._most, self._most_parts = most, most_parts
        self._wall_end = time.perf_counter() + SECONDS
        self._end = time.thread_time() + SECONDS

    def spend(self) -> None:
        """Stop a rendering whose time is over. A busy machine is no reason: the processor's time counts."""
        if time.perf_counter() > self._wall_end and time.thread_time() > self._end:
            raise TooCostly(f"it takes more than {SECONDS:g} seconds for one conversation")

    def check(self, size: float) -> None:
        """Refuse what would be too large."""
        if size > self._most:
            raise TooCostly(f"it makes {size:.3g} characters or more of one conversation")

    def measured(self, value: T) -> T:
        """The value, if all that is in it, written out, is not too large."""
        if isinstance(value, str):
            self.check(len(value))
        else:
            self.size(value)
        return value

    def size(self, value: Any) -> int:
        """Characters and parts of a value as text, each part counted as often as it stands there."""
        found, parts, waiting = 0, 0, [value]
        while waiting:
            part = waiting.pop()
            parts += 1
            if isinstance(part, str):
                found += len(part) + 1
                continue
            if isinstance(part, dict):
                waiting += [*part.keys(), *part.values()]
            elif isinstance(part, _LISTS):
                waiting += cast(Iterable[Any], part)
            if parts + len(waiting) > self._most_parts:
                raise TooCostly(f"it makes a value of more than {self._most_parts} parts")
        self.check(found + parts)
        return found + parts

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """The operators that can make large values."""
        self.spend()
        if operator == "%" and isinstance(left, str):
            return self._format(left, *(right if isinstance(right, tuple) else (right,)), one=right)
        numbers = isinstance(left, int) and isinstance(right, int)
        if operator == "**" and (not numbers or abs(left).bit_length() * max(right, 0) > LARGEST_BITS):
            raise TooCostly("it raises to a large power")
        if operator == "*" and numbers and left.bit_length() + right.bit_length() > LARGEST_BITS:
            raise TooCostly("it multiplies large numbers")
        if operator == "*" and not numbers:
            for value, times in ((left, right), (right, left)):
                if isinstance(value, str | list | tuple) and isinstance(times, int):
                    self.check(len(value) * times)
        return self._checked(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Every call of a function, method or macro; named as in Jinja, so that no keyword can clash."""
        self, method = __self, getattr(__obj, "__wrapped__", __obj)
        text: Any = getattr(method, "__self__", None)
        name = getattr(method, "__name__", "") if isinstance(text, str) else ""
        named = {key: value for key, value in kwargs.items() if key not in _OF_JINJA}
        self._check_arguments(name, args, named)
        if name in _FORBIDDEN_METHODS:
            raise SecurityError(f"`{name}` of texts is not allowed")
        if name == "join":
            return self._join(args[0] if args else (), text)
        if name == "replace":
            return self._replace(text, *args, **named)
        if name == "expandtabs":
            self.check(len(text) + text.count("\t") * max([8, *args, *named.values()]))
        if name in ("format", "format_map"):
            self._check_format(text, [*args, *named.values()], field="{")
        return self._checked(super().call(__context, __obj, *args, **kwargs))

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Jinja's own lets a template look at what it must not touch, and see nothing."""
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} is unsafe")

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return cast(nodes.Template, Watched(self).visit(super()._parse(source, name, filename)))

    def _each(self, items: Iterable[Any]) -> Iterator[Any]:
        """What a loop goes over."""
        for item in items:
            self.spend()
            yield item

    def _concat(self, pieces: Iterable[str]) -> str:
        kept, length = [], 0
        for piece in pieces:
            length += len(piece)
            self.check(length)
            kept.append(piece)
        self.spend()
        return "".join(kept)

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        # What Jinja itself passes first is no value of the template.
        first = 1 if hasattr(function, "jinja_pass_arg") else 0

        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            values = args[first:]
            self._check_arguments(name, values, kwargs)
            if name == "indent":
                width = values[1] if len(values) > 1 else kwargs.get("width", 4)
                lines = 1 + str(values[0]).count("\n")
                self.check((width if isinstance(width, int) else len(width)) * lines)
            return self._checked(function(*args, **kwargs))

        return guarded

    def _check_arguments(self, name: str, values: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        self.spend()
        for value in (*values, *named.values()):
            if name in _TAKE_A_WIDTH and isinstance(value, int):
                self.check(abs(value))
            elif isinstance(value, (list, tuple, dict)):
                self.size(value)

    def _checked(self, result: Any) -> Any:
        if isinstance(result, (str, list, tuple, dict)):
            self.check(len(result))
        return result

    def _join(self, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        items = value if attribute is None else map(make_attrgetter(self, attribute), value)
        texts, length = [], 0
        for item in self._each(items):
            text = str(self.measured(item))
            length += len(text) + len(str(d))
            self.check(length)
            texts.append(text)
        return str(d).join(texts)

    def _replace(self, s: Any, old: str, new: str, count: int | None = None) -> str:
        text, was, becomes = str(s), str(old), str(new)
        times = text.count(was) if count is None or count < 0 else min(count, text.count(was))
        self.check(len(text) + times * (len(becomes) - len(was)))
        return text.replace(was, becomes, -1 if count is None else count)

    def _format(self, value: Any, *args: Any, one: Any = None, **kwargs: Any) -> str:
        text = str(value)
        given = args if one is None else one
        self._check_format(text, [*args, *kwargs.values()], field="%")
        return str(text % (kwargs or given))

    def _check_format(self, text: str, values: Iterable[Any], *, field: str) -> None:
        if _DYNAMIC_WIDTH.search(text):
            raise TooCostly("it formats with a width that is a value")
        widths = [int(digits) for digits in re.findall(r"\d{1,18}", text)]
        longest = max([0, *widths, *(self.size(value) for value in values)])
        self.check(len(text) + text.count(field) * longest)

    def _tojson(
        self,
        x: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # Jinja's own escapes HTML; this is what transformers gives to templates.
        self.size(x)
        width = indent if isinstance(indent, int) else len(indent or "")
        if max(width, *map(len, separators or ("", ""))) > _LONGEST_MARK:
            raise TooCostly("it writes JSON with long marks between the values")
        return json.dumps(
            x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    def _sum(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """Numbers only: lists, added one by one, are copied each time."""

        @wraps(plain)
        def added(environment: Any, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
            if not isinstance(start, int | float):
                raise TooCostly("it sums what are no numbers")
            return plain(environment, iterable, attribute, start)

        return added
