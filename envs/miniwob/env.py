"""`turnwise/MiniWoB-v0`: MiniWoB++'s web tasks in a real Chromium, observed as an accessibility tree."""

from __future__ import annotations

from typing import Any, ClassVar

from ..accessibility import PageText
from ..browser import BrowserPage
from ..core import State, TextEnv
from ..errors import RequestError
from ..task import Task
from . import names
from .experts import EXPERTS, Page

OVER = "The task is over."

_BEGIN = """seed => {
    Math.seedrandom(seed);
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

    Success is the raw reward 1, without the discount for time; anything else that ends a task, partial rewards
    included, is a failure worth 0. The clock of a page stands still but for half a second per action, so the limit of
    ten seconds per task is gone and animations are the same in every replay.
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

    @classmethod
    def has_expert(cls, task: Task) -> bool:
        return task.params.get("name") in EXPERTS

    def start(self, task: Task) -> State:
        self._browser.open(names.page_address(task.params.get("name", "")))
        self._past: list[tuple[PageText, str]] = []
        self.goal = " ".join(str(self._browser.evaluate(_BEGIN, task.seed)).split())
        return self._state("")

    def act(self, action: str) -> State:
        if self.state.success or self.state.failure:
            return self.state._replace(observation=OVER, admissible=False)
        self._past.append((self._shown, action))
        return self._state(self._browser.act(action, self._shown))

    def expert(self) -> str:
        assert self.task is not None
        name = self.task.params["name"]
        if name not in EXPERTS:
            raise RequestError(f"Expected a task with a scripted expert, got {name!r}. Those with one: "
                               f"{', '.join(sorted(EXPERTS))}.")  # fmt: skip
        if self.state.success or self.state.failure:
            return "press[Tab]"
        return EXPERTS[name](Page(self.goal, self._shown, tuple(self._past)))

    def close(self) -> None:
        self._browser.close()

    def _state(self, problem: str) -> State:
        done, raw = self._browser.evaluate(_RESULT)
        if done:
            return State(OVER, float(raw == 1), raw == 1, raw != 1, (), not problem)
        self._shown = self._browser.read()
        clicks = tuple(f"click[{each.number}]" for each in self._shown.elements if "disabled" not in each.states)
        observation = f"{problem}\n\n{self._shown.text}" if problem else self._shown.text
        return State(observation, commands=clicks, admissible=not problem)
