"""`turnwise/ShopBrowser-v0`: the shop as a web site in a real Chromium, observed as an accessibility tree."""

from __future__ import annotations

from typing import Any, ClassVar

from ..browser import BrowserPage
from ..core import State, TextEnv
from ..page_text import PageText
from ..task import Task
from . import goals, webshop
from .expert import Shopper
from .pages import BUY, SEARCH, Page, page
from .reward import purchase_reward
from .site import Site, view_at

CLOSED = "You have bought something: the shop is closed."


class ShopBrowserEnv(TextEnv):
    """The tasks, products and rewards of `Shop-v0`, with the actions of a browser (`browser.USAGE`).

    The observation is Chromium's accessibility tree: one line per text or element, elements with their numbers.
    `commands` lists the clicks.
    """

    id: ClassVar[str] = "turnwise/ShopBrowser-v0"
    isolated: ClassVar[bool] = True

    def __init__(self, split: str = "train", render_mode: str | None = None, **params: Any) -> None:
        super().__init__(split, render_mode, **params)
        self._browser = BrowserPage(keystrokes=False)
        self._url = ""

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
        site = Site.shared()
        site.leave(self._url)
        self._url, self._visit = site.enter(self._catalogue, self._goal)
        self._browser.open(self._url)
        return self._state("")

    def act(self, action: str) -> State:
        if self._visit.bought is not None:
            return self.state._replace(observation=CLOSED, admissible=False)
        return self._state(self._browser.act(action, self._shown))

    def expert(self) -> str:
        """The shopper's next action, said to the elements on the page."""
        if self._visit.bought is not None:
            return "press[Tab]"
        wanted, shown = self._shopper.act(self._page()), self._shown
        verb, _, words = wanted.removesuffix("]").partition("[")
        if verb == "search":
            field = shown.find("searchbox")
            if field.value != words:
                return f"type[{field.number}][{words}]"
            return f"click[{shown.find('button', SEARCH).number}]"
        link = self._page().clickable[words.lower()]
        if link.option:
            return f"select[{shown.find('combobox', link.option).number}][{link.label}]"
        return f"click[{shown.find('button' if words == BUY else 'link', link.label).number}]"

    def close(self) -> None:
        if self._url:
            Site.shared().leave(self._url)
            self._url = ""
        self._browser.close()

    def _page(self) -> Page:
        """The page at the browser's address."""
        return page(self._catalogue, self._goal, view_at(self._browser.url))

    def _state(self, problem: str) -> State:
        self._shown = self._browser.read()
        self._shopper.observe(self._page())
        score, bought = 0.0, self._visit.bought
        if bought is not None:
            score = purchase_reward(self._goal, self._catalogue.products[bought.product], dict(bought.options))
        observation = f"{problem}\n\n{self._shown.text}" if problem else self._shown.text
        return State(observation, score, score == 1.0, bought is not None and score != 1.0,
                     clicks(self._shown), not problem)  # fmt: skip


def clicks(shown: PageText) -> tuple[str, ...]:
    """A click on each element that is not disabled."""
    return tuple(f"click[{element.number}]" for element in shown.elements if "disabled" not in element.states)
