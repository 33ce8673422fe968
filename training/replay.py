"""Episodes that outlive their step: those of recent policies (ReMix) and of the policy before RL (DPH-RL).

They carry the log-probs of the policy that sampled them and are part of every checkpoint, so that resume stays exact.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from ..agents.trajectory import Trajectory
from ..envs.errors import RequestError
from .catalogue.offpolicy import mix_policies
from .catalogue.regression import near_mastered
from .config import RLConfig
from .extract import REPLAY, START
from .parameters import call, keyword_defaults

Group = list[Trajectory]


class Store:
    """Groups by the step that played them, and won episodes from before RL; `dump` and `load` are exact."""

    def __init__(self) -> None:
        self.recent: dict[int, list[Group]] = {}
        self.start: Group | None = None
        """None until the policy before RL has played."""

    def keep(self, rl: RLConfig, step: int, played: Sequence[Trajectory]) -> None:
        """Take in a step's own groups and let go of those that are too old."""
        if rl.replay != "remix":
            return
        back = rl.collect_params.get("replay_back", keyword_defaults(mix_policies)["replay_back"])
        groups: dict[int, Group] = {}
        for t in played:
            if not t.stop.is_error and t.policy_tokens:
                groups.setdefault(t.group, []).append(t)
        self.recent = {at: old for at, old in self.recent.items() if at > step - back}
        self.recent[step] = list(groups.values())

    def draw(self, rl: RLConfig, seed: int, step: int, state: Mapping[str, Any]) -> list[Group]:
        """Stored groups that take the place of fresh ones at this step (`mix_policies`)."""
        if rl.replay != "remix" or state.get("reincarnated"):
            return []
        stored = [(at, group) for at, groups in sorted(self.recent.items()) if at < step for group in groups]
        ages = [step - at for at, _ in stored]
        name = f"replay/{seed}/{step}"
        return [stored[i][1] for i in call(mix_policies, ages, rl.tasks_per_step, name, params=rl.collect_params)]

    def begin(self, rl: RLConfig, groups: Sequence[Group]) -> None:
        """Keep what the policy before RL won on the tasks that it nearly masters (`near_mastered`)."""
        sound = [[t for t in group if not t.stop.is_error and t.policy_tokens] for group in groups]
        rates = [sum(t.success for t in group) / len(group) if group else 0.0 for group in sound]
        chosen = call(near_mastered, rates, params=rl.collect_params)["kept"]
        self.start = [t for index in chosen for t in sound[index] if t.success]
        if not self.start:
            raise RequestError(
                "Expected tasks that the policy nearly masters before RL for rl.replay=dph_rl, got success rates up "
                f"to {max(rates, default=0.0):.2f}. Lower rl.collect_params.mastered_at or train longer before RL."
            )

    def of_start(self, rl: RLConfig, seed: int, step: int) -> Group:
        """Episodes from before RL for this step's batch."""
        if not self.start:
            return []
        count = rl.collect_params.get("start_rows", keyword_defaults(near_mastered)["start_rows"])
        return random.Random(f"start/{seed}/{step}").sample(self.start, min(count, len(self.start)))

    def dump(self) -> str:
        """One JSON line per group."""
        lines = [{"step": at, "group": _plain(group)} for at, groups in self.recent.items() for group in groups]
        lines += [] if self.start is None else [{"step": None, "group": _plain(self.start)}]
        return "".join(json.dumps(line) + "\n" for line in lines)

    @classmethod
    def load(cls, text: str) -> Store:
        """What `dump` wrote."""
        store = cls()
        for line in text.splitlines():
            data = json.loads(line)
            group = [Trajectory.model_validate(t) for t in data["group"]]
            if data["step"] is None:
                store.start = group
            else:
                store.recent.setdefault(data["step"], []).append(group)
        return store


def _plain(group: Group) -> list[dict[str, Any]]:
    return [t.model_dump(mode="json") for t in group]


def seated_anew(groups: Sequence[Group], first: int) -> list[Trajectory]:
    """Replayed groups under numbers from `first` on."""
    return [t.model_copy(update={"group": first + k, "agent": REPLAY}) for k, group in enumerate(groups) for t in group]


def alone(group: Sequence[Trajectory], first: int) -> list[Trajectory]:
    """Episodes from before RL, each a group of its own: what is held on to needs no baseline."""
    return [t.model_copy(update={"group": first + k, "agent": START}) for k, t in enumerate(group)]


def reincarnates(rl: RLConfig, step: int) -> bool:
    """Whether the policy becomes its own reference before this step."""
    return rl.replay == "remix" and step > 0 and step == rl.collect_params.get("reincarnate_at")
