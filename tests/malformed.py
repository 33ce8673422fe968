"""Actions that no game understands, and a check that a game survives them."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, seed, settings
from hypothesis import strategies as st
from turnwise.envs import Task
from turnwise.envs.check import BAD_ACTIONS, wrong_info
from turnwise.envs.core import clean_action
from turnwise.envs.pool import EnvPool

PER_EPISODE = 20
_WORDS = (
    *("go", "take", "put", "open", "cook", "look", "north", "key", "door", "all", "it", "then", "and", "of", "in"),
    *(".", ",", ";", ":", "!", '"', "'", "\\", "[", "]", "{0}", "$$", "%s", "#", "-=", "=-", "0", "-1", "1e309"),
    *("quit", "restart", "undo", "save", "oops", "again", "g", "script", "tw-print", "tw-extra-infos score", "verify"),
    *("\t", "\n", "\x00", "\x1b[2J", "\u202e", "\ud800", "é", "拿起", "🗝️", "٣"),
)
ACTIONS = st.one_of(
    st.text(max_size=600),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80),
    st.lists(st.sampled_from(_WORDS), max_size=12).map(" ".join),
    st.sampled_from(BAD_ACTIONS),
)


def survives(pool: EnvPool, task: Task, actions: int) -> None:
    """Play `actions` malformed actions, `PER_EPISODE` in each; any error or hang fails, and the expert wins after."""

    async def episode(said: list[str]) -> None:
        async with pool.lease(task) as env:
            _, info = await env.reset()
            for action in said:
                if info["stop"] is not None:
                    await env.reset()
                observation, _, _, _, info = await env.step(action)
                assert not wrong_info(info) and observation, (action, observation, info)
                assert info["valid"] == (clean_action(action) is not None), action

    async def win() -> dict[str, Any]:
        async with pool.lease(task) as env:
            _, info = await env.reset()
            while info["stop"] is None:
                *_, info = await env.step(await env.expert())
            return info

    @seed(0)
    @settings(max_examples=actions // PER_EPISODE, deadline=None, database=None)
    @given(st.lists(ACTIONS, min_size=PER_EPISODE, max_size=PER_EPISODE))
    def holds(said: list[str]) -> None:
        asyncio.run(episode(said))

    holds()
    assert asyncio.run(win())["success"]
