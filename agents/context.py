"""What the model reads and how its answer is read: chat rendering and action parsing, in one place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..envs.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "\u241eanswer\u241e"
_ARTICLES = re.compile(r"\b(?:a|an|the|some)\s+", re.IGNORECASE)
_BANNER = re.compile(r"-=[^=]*=-")
_NUMBER = re.compile(r"[0-9]{1,4}")
_ACTION_TAG = re.compile(r"<action>(.*?)</action>", re.DOTALL | re.IGNORECASE)


Mode = Literal["instant", "reasoning", "agentic"]
"""Ways to answer, the cheapest first."""


class Context(BaseModel):
    """How observations become user messages.

    `transcript` only ever appends, so an episode is one training row. `windowed` rebuilds the
    context every turn from the goal and the last `history` exchanges, so each turn is a row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal["transcript", "windowed"] = Field(
        default="transcript", description="append to one context, or rebuild it every turn"
    )
    history: int = Field(default=2, ge=0, description="windowed: earlier exchanges shown")
    system: str = Field(default="", description="system message")
    goal: Literal["never", "first", "every"] = Field(default="first", description="observations that repeat the goal")
    commands: bool | Literal["changed"] = Field(
        default=False,
        description="list the admissible commands, numbered for answer=number; changed: a transcript lists them only "
        "where they differ from those of the turn before, which shortens episodes whose commands stay",
    )
    terse: bool = Field(default=False, description="drop banners and articles: shorter for small models")
    answer: Literal["plain", "tags", "verbatim", "number"] = Field(
        default="plain",
        description="the whole answer on one line, the text in <action> tags, the whole answer as it is, or the number "
        "of a listed command: a small model need not copy names that it never met",
    )
    modes: tuple[Mode, ...] = Field(
        default=(),
        description="words of which the first answer of an episode opens with one: how it will be played (A2FM); "
        "what they mean to the model is for `system` to say",
    )
    max_action_tokens: int = Field(default=16, ge=1, description="longest answer in tokens")
    max_tokens: int = Field(default=1000, ge=16, description="context limit in tokens")

    @model_validator(mode="after")
    def _numbers_are_listed(self) -> Context:
        if self.answer == "number" and not self.commands:
            raise ValueError("answer=number needs commands=true: the answer is the number of a listed command")
        return self

    def message(
        self, observation: str, goal: str, commands: tuple[str, ...] | None, first: bool,
        before: tuple[str, ...] | None = None,
    ) -> str:  # fmt: skip
        """The user message for one observation; `before` are the commands of the message before this one."""
        parts = [observation.strip()]
        if goal and (self.goal == "every" or (self.goal == "first" and first)):
            parts.append(f"Goal: {goal}")
        if self.commands == "changed" and not first and commands is not None and commands == before:
            parts.append("Actions: as before")
        elif self.commands and commands is not None:
            listed = [f"{i} {c}" for i, c in enumerate(commands, 1)] if self.answer == "number" else commands
            parts.append("Actions: " + ", ".join(listed))
        text = "\n".join(parts)
        return tersely(text) if self.terse else text

    def render_action(self, action: str, commands: Sequence[str] | None = None) -> str:
        """The answer that `action` parses from; raises `RequestError` for one that has no number."""
        if self.answer == "number":
            if action not in (commands or ()):
                raise RequestError(f"Expected an action of those that are listed, for answer=number, got {action!r}.")
            return str(1 + list(commands or ()).index(action))
        return f"<action>{action}</action>" if self.answer == "tags" else action

    def mode(self, text: str) -> tuple[str, str]:
        """(the mode that an answer opens with, the rest of it); mode empty where it names none of `modes`."""
        first, *rest = text.split(maxsplit=1) or [""]
        return (first, "".join(rest)) if first in self.modes else ("", text)

    def action(self, text: str, commands: Sequence[str] | None = None) -> str:
        """The action in an answer to a list of commands; empty when there is none (an invalid action)."""
        if self.answer == "verbatim":
            return text.strip()
        if self.answer == "number":
            number = int(text) if _NUMBER.fullmatch(text.strip()) else 0
            return commands[number - 1] if commands and 1 <= number <= len(commands) else ""
        if self.answer == "tags":
            found = _ACTION_TAG.findall(text)
            text = found[-1] if found else ""
        return " ".join(text.split())


def tersely(text: str) -> str:
    """`text` without banners (`-= … =-`), articles and repeated white space."""
    return " ".join(_ARTICLES.sub("", _BANNER.sub("", text)).split())


class Renderer:
    """Chat messages to token ids, append only: what was sampled is never encoded again.

    `start` encodes an opening through the tokenizer's chat template. `extend` encodes only what the
    template puts between the end of an answer and the next one, so the ids of a whole episode are the
    concatenation of what the engine saw and sampled.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise RequestError("Expected a tokenizer with a chat template. Set tokenizer.chat_template first.")
        self.tokenizer = tokenizer
        self._encode = lru_cache(maxsize=65_536)(self._encode_uncached)
        self._between = lru_cache(maxsize=65_536)(self._between_uncached)
        self.end_id = self._end_id()

    def start(self, messages: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
        """Ids of (role, content) messages, ready for an answer."""
        return self._encode(self._template(messages, generate=True))

    def extend(self, user: str, answered: bool) -> tuple[int, ...]:
        """Ids to append after an answer: the next user message, ready for an answer.

        `answered` is False when the answer was cut before its end token, which is then added here.
        """
        return self.go_on((("user", user),), answered)

    def go_on(self, messages: tuple[tuple[str, str], ...], answered: bool) -> tuple[int, ...]:
        """`extend` by any messages."""
        ids = self._encode(self._between(messages))
        return ids if answered else (self.end_id, *ids)

    def answer(self, text: str) -> tuple[int, ...]:
        """Ids of an answer written by someone else (an expert), end token included."""
        return (*self._encode(text), self.end_id)

    def text(self, ids: tuple[int, ...]) -> str:
        """Text of an answer's ids, without its end token."""
        kept = ids[:-1] if ids and ids[-1] == self.end_id else ids
        return str(self.tokenizer.decode(list(kept), skip_special_tokens=True))

    def is_prefix_preserving(self) -> bool:
        """Whether the template renders a growing dialogue by appending only.

        Some templates drop earlier reasoning or move the system message. Training stays exact either
        way, because nothing is rendered twice; but such a model meets contexts unlike its own template's.
        """
        two = self._template((("user", "a"), ("assistant", _MARK)), generate=False)
        three = self._template((("user", "a"), ("assistant", _MARK), ("user", "b")), generate=True)
        return three.startswith(two.rstrip("\n"))

    def _encode_uncached(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]

    def _between_uncached(self, messages: tuple[tuple[str, str], ...]) -> str:
        whole = self._template((("user", "a"), ("assistant", _MARK), *messages), generate=True)
        if _MARK not in whole:
            raise RequestError("Expected a chat template that keeps earlier answers; this one drops them.")
        after = whole[whole.index(_MARK) + len(_MARK) :]  # the first: the user's text may hold anything
        end = str(self.tokenizer.convert_ids_to_tokens(self.end_id))
        return after[after.index(end) + len(end) :]

    def _template(self, messages: tuple[tuple[str, str], ...], generate: bool) -> str:
        dialogue = [{"role": role, "content": self._defused(content)} for role, content in messages]
        return str(self.tokenizer.apply_chat_template(dialogue, tokenize=False, add_generation_prompt=generate))

    def _defused(self, content: str) -> str:
        """`content` with a space inside what reads like a special token: a game must not end turns or open roles."""
        for token in self.tokenizer.all_special_tokens:
            if token in content:
                content = content.replace(token, f"{token[0]} {token[1:]}")
        return content

    def _end_id(self) -> int:
        """The special token that the template writes right after an answer."""
        whole = self._template((("user", "a"), ("assistant", _MARK)), generate=False)
        after = self._encode(whole[whole.rindex(_MARK) + len(_MARK) :].lstrip())
        if not after or after[0] not in self.tokenizer.all_special_ids:
            raise RequestError("Expected a chat template that ends an answer with a special token; this one does not.")
        return after[0]
