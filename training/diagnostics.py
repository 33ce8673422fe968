"""Signs of collapse: what the numbers of a step say before success does, and alarms on them.

Shapes: B rows, T tokens, M trajectories, N turns. `of_episodes` reads records, `of_batch` tensors; both answer with
metrics, which `docs/runs.md` explains.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import pstdev
from typing import NamedTuple

from ..agents.trajectory import Trajectory
from ..envs.errors import TurnwiseError
from .batch import Batch, segment_mean, segment_sum
from .config import Alarm
from .credit import Rewards, gae
from .extract import sampled

NGRAM = 4
TURNS_SHOWN = 8
"""Turn indices with an entropy of their own; longer episodes go into `entropy/later_turns`."""

# ---------------------------------------------------------------- episodes


def of_episodes(played: Sequence[Trajectory]) -> dict[str, float]:
    """Repetition, spread of scores within groups, and how much actions tell of the task."""
    sound = [t for t in played if not t.stop.is_error and t.turns]
    if not sound:
        return {}
    groups: dict[int, list[float]] = defaultdict(list)
    for t in sound:
        groups[t.group].append(t.score / t.max_score)
    actions = [(t.group, [turn.action for turn in t.turns]) for t in sound]
    return {
        "repeat/ngrams": repeated_ngrams([[turn.output.ids for turn in t.turns if turn.output] for t in sound]),
        "repeat/actions": repeated_actions([[(turn.anchor, turn.action) for turn in t.turns] for t in sound]),
        "group/score_std": sum(map(pstdev, groups.values())) / len(groups),
        "information/actions": action_information(actions),
    }


def repeated_ngrams(episodes: Sequence[Sequence[Sequence[int]]], n: int = NGRAM) -> float:
    """Share of n-grams of an answer's tokens that occurred earlier in the same answer; episodes -> turns -> token ids.

    Within one answer only: giving the same short action twice is play, a loop inside an answer is not.
    """
    total = repeated = 0
    for answer in (ids for turns in episodes for ids in turns):
        grams = [tuple(answer[i : i + n]) for i in range(len(answer) - n + 1)]
        total += len(grams)
        repeated += len(grams) - len(set(grams))
    return repeated / total if total else 0.0


def repeated_actions(episodes: Sequence[Sequence[tuple[str, str]]]) -> float:
    """Share of turns whose (observation, action) occurred earlier in the episode: walking in circles."""
    total = sum(map(len, episodes))
    return sum(len(turns) - len(set(turns)) for turns in episodes) / total if total else 0.0


def action_information(episodes: Sequence[tuple[int, Sequence[str]]]) -> float:
    """How much actions tell of the task: (group, actions by turn) per episode -> a number in [-1, 1].

    I = P(same action | two episodes of one group) - P(same action | two of different groups), both at the same turn
    index, over all such pairs. That is the mutual information of task and action for the entropy 1 - sum p^2,
    estimated without bias from pairs: 0 where the policy answers every task alike (template collapse, as RAGEN-2
    calls it, arXiv 2604.06268), however random its answers are; 1 where tasks determine actions and never agree.
    """
    within = across = within_pairs = across_pairs = 0.0
    for turn in range(max((len(actions) for _, actions in episodes), default=0)):
        seen = [(group, actions[turn]) for group, actions in episodes if len(actions) > turn]
        per_group = Counter(group for group, _ in seen)
        same_in_group, same = _pairs(Counter(seen).values()), _pairs(Counter(a for _, a in seen).values())
        pairs_in_group = _pairs(per_group.values())
        within, within_pairs = within + same_in_group, within_pairs + pairs_in_group
        across += same - same_in_group
        across_pairs += _pairs([len(seen)]) - pairs_in_group
    if not within_pairs or not across_pairs:
        return 0.0
    return within / within_pairs - across / across_pairs


def _pairs(counts: Sequence[int] | Iterator[int] | object) -> float:
    return sum(n * (n - 1) / 2 for n in counts)  # type: ignore[attr-defined]


# ---------------------------------------------------------------- tensors


def of_batch(batch: Batch, rewards: Rewards, gamma: float) -> dict[str, float]:
    """Entropy by turn index, and with a critic how far its errors are from noise."""
    found: dict[str, float] = {}
    if batch.entropy is not None:
        found |= entropy_by_turn(batch)
    if batch.values is not None:
        found |= critic_residual(batch, rewards, gamma)
    return found


def sampler_gap(batch: Batch) -> dict[str, float]:
    """|log-prob of the engine - log-prob of the trainer| at the weights that sampled: largest and mean."""
    if batch.logp_rollout is None or batch.logp_old is None:
        return {}
    gap = (batch.logp_rollout - batch.logp_old)[sampled(batch)].abs()
    if not len(gap):
        return {}
    return {"gap/max": float(gap.max()), "gap/mean": float(gap.mean())}


def entropy_by_turn(batch: Batch) -> dict[str, float]:
    """Mean entropy in nats over the tokens of turn 0, 1, ...; those from `TURNS_SHOWN` on together."""
    assert batch.entropy is not None
    turn_BT = batch.turn.clamp(max=TURNS_SHOWN)
    mean = segment_mean(batch.entropy.flatten(), turn_BT.flatten(), TURNS_SHOWN + 1).tolist()
    names = [f"entropy/turn_{turn}" for turn in range(TURNS_SHOWN)] + ["entropy/later_turns"]
    there = set(turn_BT[batch.mask].tolist())
    return {name: mean[turn] for turn, name in enumerate(names) if turn in there}


def critic_residual(batch: Batch, rewards: Rewards, gamma: float) -> dict[str, float]:
    """Martingale residual d_t = r_t + gamma V_{t+1} - V_t: its mean over tokens, and a z-score over trajectories.

    A critic that fits makes the sum of d over a trajectory a martingale difference of mean 0;
    z = mean_M sum d / (std_M / sqrt(M)). Last tokens of truncated trajectories are left out, what follows is unknown.
    """
    assert batch.values is not None
    packed = batch.packed
    delta_ML = gae(packed.take(rewards.token_BT), packed.take(batch.values), packed.mask_ML, gamma, 0.0)
    counted_BT = batch.mask
    if batch.truncated is not None:
        counted_BT = counted_BT & ~(batch.last_action() & batch.truncated[:, None])
    delta_BT = packed.put(delta_ML, batch.mask.shape) * counted_BT
    index_BT, count = batch.unit_index("trajectory")
    sum_M = segment_sum(delta_BT.flatten(), index_BT.flatten(), count)
    error = float(sum_M.std(unbiased=True)) / math.sqrt(count) if count > 1 else 0.0
    mean = float(delta_BT.sum() / counted_BT.sum().clamp(min=1))
    return {"critic/residual": mean, "critic/residual_z": float(sum_M.mean()) / error if error > 0 else 0.0}


# ---------------------------------------------------------------- alarms


class AlarmStop(TurnwiseError):
    """An alarm of the recipe ended the run."""


class Fired(NamedTuple):
    """An alarm whose condition has just held for as long as it asks."""

    alarm: Alarm
    value: float
    step: int

    def __str__(self) -> str:
        a = self.alarm
        bound = f"above {a.above:g}" if a.above is not None else f"below {a.below:g}"
        long = f" for {a.steps} steps" if a.steps > 1 else ""
        return f"{a.metric} was {bound}{long}, at last {self.value:.4g} (step {self.step})"


def fired(alarms: Sequence[Alarm], metrics: Mapping[str, Sequence[tuple[int, float | None]]], step: int) -> list[Fired]:
    """Alarms that fire at `step`: the metric's newest `steps` values are beyond the bound, and no one more before them.

    `metrics` are (step, value) in order of steps, SFT steps not counted. A value that is no number (None, NaN) is
    beyond every bound. An alarm fires once for each stretch.
    """
    found = []
    for alarm in alarms:
        series = [(at, value) for at, value in metrics.get(alarm.metric, ()) if 0 <= at <= step]
        if not series or series[-1][0] != step:
            continue
        beyond = [_beyond(alarm, value) for _, value in series]
        stretch = next((n for n, ill in enumerate(reversed(beyond)) if not ill), len(beyond))
        if stretch == alarm.steps:
            value = series[-1][1]
            found.append(Fired(alarm, math.nan if value is None else value, step))
    return found


def _beyond(alarm: Alarm, value: float | None) -> bool:
    if value is None or math.isnan(value):
        return True
    over = alarm.above is not None and value > alarm.above
    return over or (alarm.below is not None and value < alarm.below)
