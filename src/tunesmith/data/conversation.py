"""A training or test row as every later step sees it: who said what, and where it stood in the file.

Knows nothing of files, templates or tokens.
"""

from dataclasses import dataclass

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    `input` is the optional second field of an instruction row. Chat templates see it joined to
    `content`; the `### Instruction:` layout gives it a heading of its own.
    """

    role: str
    content: str
    input: str = ""

    @property
    def text(self) -> str:
        """The whole turn as one text."""
        return f"{self.content}\n\n{self.input}" if self.input else self.content


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation, ending in an assistant's answer, and its place (`path`, 1-based `line`)."""

    messages: tuple[Message, ...]
    path: str
    line: int
    format: str

    @property
    def prompt(self) -> tuple[Message, ...]:
        """All turns before the last answer."""
        return self.messages[:-1]

    @property
    def asked(self) -> str:
        """What near copies of a prompt are told by; a system message would make all prompts alike."""
        return "\n".join(message.text for message in self.prompt if message.role != "system")

    @property
    def reference(self) -> str:
        """The last answer: what the model should say."""
        return self.messages[-1].content

    @property
    def place(self) -> str:
        """`file:line`, as error messages name it."""
        return f"{self.path}:{self.line}"
