"""Expert demonstrations beside the policy's own episodes: further members of a group, `provenance` 1.

They carry the ids that the policy would have read and written but no engine's log-probs: `extract.follow_trainer` puts
the trainer's in their place, and the sampler's gap leaves them out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..agents.agent import Demonstrator
from ..agents.context import Context, Renderer
from ..agents.rollout import Episode, Limits, Pool, episode_seed, rollout
from ..agents.trajectory import Trajectory
from ..envs.errors import RequestError
from .config import RLConfig
from .extract import EXPERT


def expert_episodes(played: Sequence[Trajectory], rl: RLConfig, seed: int, step: int) -> list[Episode]:
    """`rl.experts` episodes of each group's task, of failed groups only with `experts_in="failed"`.

    Copy indices go on where the group's own end. A group counts as failed if none of its episodes succeeded.
    """
    groups: dict[int, list[Trajectory]] = {}
    for t in played:
        groups.setdefault(t.group, []).append(t)
    return [
        Episode(members[0].task, group, first + k, episode_seed(EXPERT, seed, step, group, k))
        for group, members in sorted(groups.items())
        if rl.experts_in == "every" or not any(t.success for t in members)
        for first in (1 + max(t.copy_index for t in members),)
        for k in range(rl.experts)
    ]


async def demonstrations(
    episodes: Sequence[Episode], context: Context, renderer: Renderer, pool: Pool, limits: Limits
) -> list[Trajectory]:
    """The episodes as the environment's expert plays them; those that it loses are left out.

    Raises RequestError where every one of them broke: an environment without an expert.
    """
    if not episodes:
        return []
    played = await rollout(Demonstrator(EXPERT, context, renderer), episodes, pool, limits)
    if all(t.stop.is_error for t in played):
        raise RequestError(
            f"Expected demonstrations by the expert of {episodes[0].task.env} because of rl.experts, but every one "
            f"failed. The first: {played[0].stop.value}, {played[0].error}"
        )
    return [t for t in played if t.success and not t.stop.is_error]


def seated(played: Sequence[Trajectory], shown: Sequence[Trajectory], replace: bool) -> list[Trajectory]:
    """What is learned from: own episodes and demonstrations, which with `replace` take the last failed ones' places.

    A group then keeps its size as far as it has failed episodes. AMPO, arXiv 2510.02227.
    """
    if not replace:
        return [*played, *shown]
    coming = Counter(t.group for t in shown)
    kept: list[Trajectory] = []
    for t in reversed(played):
        if coming[t.group] and not t.success:
            coming[t.group] -= 1
        else:
            kept.append(t)
    return [*reversed(kept), *shown]
