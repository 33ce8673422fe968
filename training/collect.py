"""One step's episodes: which are played, which are tried again, which come from elsewhere, what is learned from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..agents.agent import Demonstrator, LLMAgent
from ..agents.context import Renderer
from ..agents.engine import Engine
from ..agents.rollout import Episode, Pool, episode_seed, rollout
from ..agents.seats import by_seat
from ..agents.trajectory import Trajectory
from . import sampler, session
from .augment import demonstrations, expert_episodes, seated
from .catalogue.regression import near_mastered
from .config import Recipe, RLConfig
from .extract import EXPERT
from .learner import Learner
from .parameters import keyword_defaults
from .replay import Store, alone, seated_anew
from .retry import Moments, reflect_and_retry

MIN_GROUPS = 2
"""With fewer groups that carry a signal, dynamic sampling has failed and the silent ones stay in the batch."""


class Collected(NamedTuple):
    """The episodes of a step."""

    played: list[Trajectory]
    """What the policy played by itself: records and metrics of play."""
    learned: list[Trajectory]
    """What the update reads."""
    told: list[Trajectory]
    """Reflections and retries, for the records."""
    metrics: dict[str, float]


@dataclass
class Collector:
    """Plays for a run; `store` holds what outlives a step."""

    recipe: Recipe
    tasks: session.Tasks
    pool: Pool
    renderer: Renderer
    engine: Engine
    learner: Learner
    store: Store = field(default_factory=Store)

    async def collect(self, step: int) -> Collected:
        """Groups of episodes of this step's tasks, drawn by (seed, step), and all that joins them."""
        recipe, rl, seed = self.recipe, self.recipe.rl, self.recipe.seed
        agent = session.make_agent(recipe, self.engine, self.renderer, rl.temperature)
        await self._begin(agent)
        old = self.store.draw(rl, seed, step, self.learner.state)
        fresh = rl.model_copy(update={"tasks_per_step": rl.tasks_per_step - len(old)})
        pool = sampler.shaped_pool(rl, step, self.pool)
        moments = Moments(pool) if rl.augmentor == "reflect_retry" else None
        played = await self._play(agent, moments or pool, fresh, step)
        metrics = {"replayed": len(old) / rl.tasks_per_step} if rl.replay == "remix" else {}
        if rl.augmentor == "ghpo":
            metrics["hinted"] = sampler.hinted(played)
        if rl.augmentor == "a2fm":
            metrics |= sampler.mode_shares(played)
        retries, lessons, told = list[Trajectory](), list[Trajectory](), list[Trajectory]()
        if moments is not None:
            played, retries, lessons, told, found = await reflect_and_retry(
                agent, played, moments, recipe.limits, rl, seed, step
            )
            metrics |= found
        self.store.keep(rl, step, played)
        shown = await self._experts(step, [*played, *retries])
        learned = [*seated(played, shown, rl.experts_replace), *retries, *lessons]
        learned += seated_anew(old, _next_group(learned))
        learned += alone(self.store.of_start(rl, seed, step), _next_group(learned))
        if recipe.env.seats > 1:
            learned = [part for t in learned for part in by_seat(t, recipe.env.seats)]
        return Collected(played, learned, told, metrics)

    async def _play(self, agent: LLMAgent, pool: Pool, rl: RLConfig, step: int) -> list[Trajectory]:
        """Groups of episodes of this step's tasks.

        With `rl.dynamic_sampling`, groups whose episodes all scored the same are played but not learned
        from, and further tasks are drawn, at most that many times (DAPO, arXiv 2503.14476).
        """
        recipe, tasks, state = self.recipe, self.tasks.at(step), self.learner.state
        order = sampler.task_order(rl, recipe.seed, step, tasks, state)
        telling: list[Trajectory] = []
        silent: list[Trajectory] = []
        drawn = 0
        for _ in range(1 + rl.dynamic_sampling):
            chosen = order[drawn : drawn + rl.tasks_per_step - _groups(telling)]
            episodes = sampler.episodes(rl, recipe.seed, step, tasks, chosen, state, drawn)
            longest = self.learner.params.get("hbpo_longest", 4096)
            if recipe.program or recipe.env.seats > 1:
                played = await rollout(session.player(recipe, agent), episodes, pool, recipe.limits)
            else:
                played = await sampler.play(agent, episodes, pool, recipe.limits, rl, longest)
            drawn += len(chosen)
            signal = {t.group for t in played if _has_signal(t.group, played)}
            telling += [t for t in played if t.group in signal]
            silent += [t for t in played if t.group not in signal]
            if _groups(telling) >= rl.tasks_per_step or drawn == len(order):
                break
        everything = sorted(telling + silent, key=_place)
        self.learner.state = sampler.remember(rl, step, everything, state)
        if rl.augmentor == "ghpo":
            expert = Demonstrator(EXPERT, recipe.context, self.renderer)
            return await sampler.with_hints(agent, everything, pool, recipe.limits, rl, recipe.seed, step, expert)
        return telling if rl.dynamic_sampling and _groups(telling) >= MIN_GROUPS else everything

    async def _begin(self, agent: LLMAgent) -> None:
        """Before the first step, what the policy can do by itself (`near_mastered`)."""
        rl, seed = self.recipe.rl, self.recipe.seed
        if rl.replay != "dph_rl" or self.store.start is not None:
            return
        count = rl.collect_params.get("start_tasks", keyword_defaults(near_mastered)["start_tasks"])
        tasks = self.tasks.train[:count]
        episodes = [
            Episode(task, group, copy, episode_seed("start", seed, group, copy))
            for group, task in enumerate(tasks)
            for copy in range(rl.samples_per_task)
        ]
        played = await rollout(agent, episodes, self.pool, self.recipe.limits)
        self.store.begin(rl, [[t for t in played if t.group == group] for group in range(len(tasks))])

    async def _experts(self, step: int, played: Sequence[Trajectory]) -> list[Trajectory]:
        """Demonstrations that join the groups of `played`: in the batch, not in the records and metrics of play."""
        recipe = self.recipe
        episodes = expert_episodes(played, recipe.rl, recipe.seed, step) if recipe.rl.experts else []
        return await demonstrations(episodes, recipe.context, self.renderer, self.pool, recipe.limits)


def play_metrics(played: Sequence[Trajectory]) -> dict[str, float]:
    """What a step's episodes were like; shares are of episodes or of turns."""
    turns = [turn for t in played for turn in t.turns]
    groups = {t.group for t in played}
    count = len(played)
    metrics = {
        "success": sum(t.success for t in played) / count,
        "score": sum(t.score / t.max_score for t in played) / count,
        "turns": len(turns) / count,
        "valid": sum(t.valid for t in turns) / max(1, len(turns)),
        "admissible": sum(t.admissible for t in turns) / max(1, len(turns)),
        "zero_signal_groups": sum(not _has_signal(g, played) for g in groups) / len(groups),
    }
    reasons = Counter(t.stop.value for t in played)
    return metrics | {f"stop/{reason}": n / count for reason, n in reasons.items()}


def _next_group(taken: Sequence[Trajectory]) -> int:
    return 1 + max((t.group for t in taken), default=-1)


def _place(t: Trajectory) -> tuple[int, int]:
    return t.group, t.copy_index


def _groups(played: Sequence[Trajectory]) -> int:
    return len({t.group for t in played})


def _has_signal(group: int, played: Sequence[Trajectory]) -> bool:
    return len({t.score for t in played if t.group == group and not t.stop.is_error}) > 1
