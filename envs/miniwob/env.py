"""`turnwise/MiniWoB-v0`: MiniWoB++'s web tasks in a real Chromium, observed as an accessibility tree."""

from __future__ import annotations

from typing import Any, ClassVar

from ..browser import TICK_MS, BrowserPage
from ..core import State, TextEnv
from ..page_text import PageText
from ..task import Task
from . import names
from .experts import EXPERTS, Page

OVER = "The task is over."

_BEGIN = """seed => {
    Math.seedrandom(seed, {state: true});  // experts may look at what it will draw
    core.EPISODE_MAX_TIME = 1e9;
    core.startEpisodeReal();
    for (const id of ['reward-display', 'click-canvas', 'sync-task-cover'])  // hidden: the end of a task writes there
        document.getElementById(id)?.style.setProperty('display', 'none', 'important');
    const said = core.getUtterance();
    return typeof said === 'string' ? said : said.utterance;
}"""
_RESULT = "() => typeof core === 'undefined' ? [true, -1] : [WOB_DONE_GLOBAL, WOB_RAW_REWARD_GLOBAL]"


class MiniWoBEnv(TextEnv):
    """MiniWoB++ (Liu et al. 2018) with the actions of a browser (`browser.USAGE`).

    Success is the raw reward 1, without the discount for time, or `names.NEAR` where a page measures how near an answer
    is (`names.GRADED`); anything else that ends a task, partial rewards included, is a failure worth 0. The clock of a
    page stands still but for half a second per action (`names.TICKS_MS` has others), so the limit of ten seconds per
    task is gone and animations are the same in every replay.
    """

    id: ClassVar[str] = names.ENV_ID
    isolated: ClassVar[bool] = True

    def __init__(self, split: str = "train", render_mode: str | None = None, **params: Any) -> None:
        super().__init__(split, render_mode, **params)
        self._browser = BrowserPage(virtual_clock=True)

    @classmethod
    def splits(cls) -> dict[str, int]:
        return names.splits()

    @classmethod
    def tasks(cls, split: str, count: int | None = None, **params: Any) -> list[Task]:
        """The first `count` tasks of `split`; `names.make_tasks` has the parameters."""
        return names.make_tasks(split, count, **params)

    def start(self, task: Task) -> State:
        self._name = task.params.get("name", "")
        self._browser.open(names.page_address(self._name), names.TICKS_MS.get(self._name, TICK_MS))
        self._past: list[tuple[PageText, str]] = []
        self.goal = " ".join(str(self._browser.evaluate(_BEGIN, task.seed)).split())
        return self._state("")

    def act(self, action: str) -> State:
        if self.state.success or self.state.failure:
            return self.state._replace(observation=OVER, admissible=False)
        self._past.append((self._shown, action))
        return self._state(self._browser.act(action, self._shown))

    def expert(self) -> str:
        if self.state.success or self.state.failure:
            return "press[Tab]"
        return EXPERTS[self._name](Page(self.goal, self._shown, tuple(self._past), self._browser.evaluate))

    def close(self) -> None:
        self._browser.close()

    def _state(self, problem: str) -> State:
        done, raw = self._browser.evaluate(_RESULT)
        if done:
            won = raw is not None and raw >= (names.NEAR if self._name in names.GRADED else 1)
            return State(OVER, float(won), won, not won, (), not problem)
        self._shown = self._browser.read(self._name in names.POINTER)
        clicks = tuple(f"click[{each.number}]" for each in self._shown.elements if "disabled" not in each.states)
        observation = f"{problem}\n\n{self._shown.text}" if problem else self._shown.text
        return State(observation, commands=clicks, admissible=not problem)
