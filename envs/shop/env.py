"""`turnwise/Shop-v0`: the shop as a text game, WebShop's two actions over the pages that the web site also shows."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from ..core import State, TextEnv
from ..task import Task
from . import goals, webshop
from .catalogue import keywords
from .expert import Shopper, queries
from .pages import Page, View, page, text
from .reward import purchase_reward

CLOSED = "You have bought something: the shop is closed."
UNKNOWN = "Nothing here is called that. Write search[words] on the search page, or click[...] with a text in brackets."
_ACTION = re.compile(r"(search|click)\s*\[(.*)\]", re.IGNORECASE)


class ShopEnv(TextEnv):
    """Buy what the instruction asks for. The score is WebShop's reward of what was bought; success is 1, less is a
    failure (`reward.py` has the formula).

    Actions are `search[words]` and `click[...]` with any text in brackets. `commands` lists all clicks and, where
    there is a search field, searches with the instruction's own words, all of them and fewer.
    """

    id: ClassVar[str] = "turnwise/Shop-v0"

    @classmethod
    def splits(cls) -> dict[str, int]:
        return goals.splits()

    @classmethod
    def missing(cls) -> str:
        return webshop.missing()

    @classmethod
    def tasks(cls, split: str, count: int | None = None, **params: Any) -> list[Task]:
        """The first `count` tasks of `split`; `goals.make_tasks` has the parameters."""
        return goals.make_tasks(cls.id, split, count, **params)

    def start(self, task: Task) -> State:
        self._catalogue, self._goal = goals.load(task)
        self.goal = self._goal.text
        self._shopper = Shopper(self._goal, only=self._goal.product.id if task.game else "")
        # What people wrote is taken as it is: how the catalogue describes their product would be news to an agent.
        self._queries = [" ".join(keywords(self.goal))] if task.game else queries(self._goal)
        return self._go(View())

    def act(self, action: str) -> State:
        if self._page.view.page == "done":
            return self.state._replace(observation=CLOSED, admissible=False)
        found = _ACTION.fullmatch(action)
        verb, words = (found[1].lower(), found[2].strip()) if found else ("", "")
        on_search = self._page.view.page == "search"
        if verb == "search" and words and on_search:
            return self._go(View("results", words))
        link = self._page.clickable.get(words.lower()) if verb == "click" else None
        if link is None:
            said = "Write words between the brackets: search[words]." if on_search and words.lower() == "search" else ""
            return self.state._replace(observation=f"{said or UNKNOWN}\n\n{text(self._page)}", admissible=False)
        return self._go(link.view)

    def expert(self) -> str:
        return self._shopper.act(self._page)

    def clone_state(self) -> tuple[Any, ...]:
        return self._catalogue, self._goal, self._page, self._queries, self._shopper.copy()

    def restore_state(self, clone: tuple[Any, ...]) -> bool:
        self._catalogue, self._goal, self._page, self._queries, shopper = clone
        self._shopper = shopper.copy()
        return True

    def _go(self, view: View) -> State:
        self._page = page(self._catalogue, self._goal, view)
        self._shopper.observe(self._page)
        score, bought = 0.0, view.page == "done"
        if bought:
            score = purchase_reward(self._goal, self._catalogue.products[view.product], dict(view.options))
        return State(text(self._page), score, score == 1.0, bought and score != 1.0, self._commands(self._page))

    def _commands(self, shown: Page) -> tuple[str, ...]:
        searches = tuple(f"search[{words}]" for words in self._queries) if shown.view.page == "search" else ()
        return searches + tuple(f"click[{link.label}]" for link in shown.clickable.values())
