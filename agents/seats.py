"""Several seats in one episode: who plays which, each hearing only its own observations, and credit seat by seat."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from ..envs.core import StopReason
from ..envs.errors import RequestError
from .agent import Agent, Answer, Player
from .rollout import episode_seed
from .trajectory import Owner, Segment, Trajectory, Turn


class SeatedAgent(Agent):
    """Plays seat k (`info["seat"]`) with agent k, all seats with the last one where there are fewer agents.

    Each seat has a dialogue of its own, so no seat reads what another was told. Every turn is a training row: the
    seat's whole context so far, then its answer. A single agent plays games of one seat as it does by itself.
    """

    def __init__(self, *agents: Agent, name: str = "self_play") -> None:
        if not agents:
            raise RequestError("Expected at least one agent to play the seats, got none.")
        self.agents, self.name = agents, name

    def play(self, episode: str, seed: int, expert: Callable[[], Awaitable[str]]) -> Player:
        return _SeatedPlayer(self, episode, seed, expert)

    def seat(self) -> AbstractContextManager[None]:
        return self._seats()

    @contextmanager
    def _seats(self) -> Any:
        with ExitStack() as stack:
            for agent in dict.fromkeys(self.agents):
                stack.enter_context(agent.seat())
            yield


class _SeatedPlayer:
    """The players of one episode."""

    def __init__(self, agent: SeatedAgent, episode: str, seed: int, expert: Callable[[], Awaitable[str]]) -> None:
        self.agent, self.episode, self.seed, self.expert = agent, episode, seed, expert
        self._players: dict[int, Player] = {}
        self._heard: dict[int, tuple[int, ...]] = {}

    async def answer(self, observation: str, info: dict[str, Any]) -> Answer:
        if "seat" not in info and len(self.agent.agents) > 1:
            raise RequestError(f"Expected an environment that names the seat to move in info, got task {info['task']}.")
        seat = int(info.get("seat", 0))
        if seat not in self._players:
            agent = self.agent.agents[min(seat, len(self.agent.agents) - 1)]
            self._players[seat] = agent.play(f"{self.episode}-seat{seat}", episode_seed(self.seed, seat), self.expert)
        answer = await self._players[seat].answer(observation, info)
        if answer.prompt is None or answer.output is None or "seat" not in info:
            return answer
        before = () if answer.restart else self._heard[seat]
        context = (*before, *answer.prompt.ids)
        self._heard[seat] = (*context, *answer.output.ids)
        return answer._replace(prompt=Segment(owner=Owner.ENVIRONMENT, ids=context), restart=True)

    def close(self) -> None:
        for player in self._players.values():
            player.close()


def by_seat(trajectory: Trajectory, seats: int) -> list[Trajectory]:
    """The episode as each seat met it: its own turns, rewarded on the last one with what it got in the end.

    The environment tells in a turn's counts which `seat` moved, and in those of the last turn every seat's
    `seat_score_k` and `seat_success_k`. Groups are numbered anew, `group * seats + seat`, so that a seat is compared
    with the same seat only. Seats that never moved are left out.
    """
    if not all("seat" in turn.counts for turn in trajectory.turns):
        raise RequestError(f"Expected turns that count their seat, got an episode of {trajectory.task.env}.")
    last = trajectory.turns[-1].counts if trajectory.turns else {}
    found = []
    for seat in range(seats):
        turns = [turn for turn in trajectory.turns if int(turn.counts["seat"]) == seat]
        if not turns:
            continue
        score, success = last.get(f"seat_score_{seat}", 0.0), last.get(f"seat_success_{seat}", 0.0) == 1.0
        ended = trajectory.stop in (StopReason.SUCCESS, StopReason.FAILURE)
        stop = (StopReason.SUCCESS if success else StopReason.FAILURE) if ended else trajectory.stop
        found.append(
            trajectory.model_copy(update={
                "turns": (*(_worth(turn, 0.0) for turn in turns[:-1]), _worth(turns[-1], score)),
                "group": trajectory.group * seats + seat, "stop": stop, "success": success, "score": score,
                "max_score": 1.0,
            })
        )  # fmt: skip
    return found


def _worth(turn: Turn, reward: float) -> Turn:
    return turn.model_copy(update={"reward": reward, "score": reward})
