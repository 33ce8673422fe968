"""What a program said and heard, exact to the token: dialogues that are told again are continued, never re-encoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from ..context import Renderer
from ..engine import Completion
from ..trajectory import Owner, Segment, Turn
from .chat import Message, is_same, texts_of


class Node(NamedTuple):
    """A dialogue after one of its answers."""

    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    ended: bool
    """The answer has its end token."""
    tools: str


class Said(NamedTuple):
    """One answer, and what the environment made of it since."""

    number: int
    """Order in the session."""
    message: str
    action: str
    prompt: Segment
    output: Segment


@dataclass
class Thread:
    """Answers whose contexts extend each other: one training row."""

    said: list[Said] = field(default_factory=list)
    tip: Node | None = None
    busy: bool = False


class Place(NamedTuple):
    """Where a request's answer belongs."""

    thread: Thread
    added: tuple[int, ...]
    """Ids that the request adds to the thread; of a new thread, its whole context."""
    context: tuple[int, ...]


class Conversation:
    """All dialogues of one session.

    A request whose messages go on from an answer that was given here gets that answer's context, ids and all, and what
    is new. Where nothing was said in between, it also goes on in the same thread; anything else (an edit, a second
    answer to the same question, another one at the same time) begins a thread, whose first prompt is its whole context.
    """

    def __init__(self, renderer: Renderer, format: str) -> None:
        self.renderer, self.format = renderer, format
        self.threads: list[Thread] = []
        self.nodes: list[Node] = []
        self.count = 0
        self.full = False
        """A request did not fit the context."""
        self.failure = ""
        """What the engine said when it failed."""

    def place(self, messages: tuple[Message, ...], tools: str) -> Place:
        """Find where a request goes on; the thread is busy until `add` or `give_up`."""
        node = self._longest(messages, tools)
        if node is None:
            added: tuple[int, ...] = self.renderer.start(texts_of(messages, tools, self.format))
            context = added
        else:
            rest = texts_of(messages[len(node.messages) :], "", self.format)
            added = self.renderer.go_on(rest, node.ended)
            context = (*node.ids, *added)
        thread = next((each for each in self.threads if node is not None and each.tip is node and not each.busy), None)
        if thread is None:
            thread, added = Thread(), context
            self.threads.append(thread)
        thread.busy = True
        return Place(thread, added, context)

    def beside(self, place: Place) -> Place:
        """A thread of its own with the same context, for a further answer to the same request."""
        thread = Thread(busy=True)
        self.threads.append(thread)
        return Place(thread, place.context, place.context)

    def add(
        self, place: Place, messages: tuple[Message, ...], tools: str, done: Completion, text: str, answer: Message
    ) -> None:
        """Record an answer."""
        node = Node((*messages, answer), (*place.context, *done.ids), done.stopped, tools)
        self.nodes.append(node)
        thread = place.thread
        thread.said.append(
            Said(
                self.count, _last_heard(messages), text,
                Segment(owner=Owner.ENVIRONMENT, ids=place.added),
                Segment(owner=Owner.POLICY, ids=done.ids, logprobs=done.logprobs, version=done.version),
            )
        )  # fmt: skip
        self.count += 1
        thread.tip, thread.busy = node, False

    def give_up(self, place: Place) -> None:
        """No answer came."""
        place.thread.busy = False
        if not place.thread.said:
            self.threads.remove(place.thread)

    def turns(self, rewards: dict[int, Turn] | None = None) -> tuple[Turn, ...]:
        """The answers as turns, thread after thread; `rewards` says by number what the environment made of them."""
        found = []
        for thread in self.threads:
            for index, said in enumerate(thread.said):
                base = (rewards or {}).get(said.number) or Turn(
                    observation="", anchor="", action="", reward=0.0, score=0.0, valid=True, admissible=True
                )
                found.append(
                    base.model_copy(
                        update={
                            "observation": said.message, "anchor": said.message, "action": said.action,
                            "prompt": said.prompt, "output": said.output, "restart": index == 0 and bool(found),
                        }
                    )
                )  # fmt: skip
        return tuple(found)

    def _longest(self, messages: tuple[Message, ...], tools: str) -> Node | None:
        """The recorded dialogue that most of `messages` repeats; of equal ones the last, which is most likely meant."""
        best = None
        for node in self.nodes:
            fits = len(node.messages) < len(messages) and node.tools == tools
            if fits and all(map(is_same, node.messages, messages)) and (
                best is None or len(node.messages) >= len(best.messages)
            ):  # fmt: skip
                best = node
        return best


def _last_heard(messages: tuple[Message, ...]) -> str:
    return next((message.content for message in reversed(messages) if message.role != "assistant"), "")
