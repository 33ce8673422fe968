"""Our ALFWorld engine says, offers and judges what TextWorld's own does; `make exact` compares hundreds of games."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("alfworld")

from alfworld_exact import NEEDS_DATA, Case, Stock, Trace, cases, compare, difference, walk
from turnwise.envs.alfworld import engine, game
from turnwise.envs.alfworld.env import ALFWorldEnv


@pytest.fixture(scope="module")
def stock() -> Iterator[Stock]:
    with Stock() as found:
        yield found


@pytest.fixture(scope="module")
def played(stock: Stock) -> tuple[Case, list[str], Trace]:
    """A generated game of three conditions, a walk through it, and what the stock engine says."""
    case = cases(0, 3, 40)[2]
    commands, _ = walk(case)
    return case, commands, stock.replay(case.data, commands)


def needs_official_games() -> None:
    if not {"official_train", "official_valid_seen"} <= set(ALFWorldEnv.splits()):
        pytest.skip(NEEDS_DATA)


def assert_same(wanted: list[Case], stock: Stock) -> None:
    for case in wanted:
        steps, found = compare(case, stock)
        assert found is None and steps >= case.steps, (case.name, found)


def test_official_games_play_as_in_the_stock_engine(stock: Stock) -> None:
    needs_official_games()
    assert_same(cases(6, 0, 20), stock)


def test_generated_games_play_as_in_the_stock_engine(stock: Stock) -> None:
    assert_same(cases(0, 6, 30), stock)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_eighty_games_play_as_in_the_stock_engine(stock: Stock) -> None:
    needs_official_games()
    wanted = cases(60, 20, 40)
    splits = [case.name.split("/")[1] for case in wanted[:60]]
    assert splits.count("train") >= 25 and splits.count("valid_seen") >= 25
    assert sum("old wording" in case.name for case in wanted) == 16
    assert_same(wanted, stock)


def test_the_faster_stock_engine_is_the_untouched_one(played: tuple[Case, list[str], Trace]) -> None:
    case, commands, trace = played
    with Stock("--untouched") as untouched:
        assert untouched.replay(case.data, commands[:15]) == trace[:16]
        wanted = cases(1, 0, 4) if "official_train" in ALFWorldEnv.splits() else cases(0, 1, 4)
        assert_same(wanted, untouched)


def test_a_walk_has_all_kinds_of_commands(played: tuple[Case, list[str], Trace]) -> None:
    _, commands, trace = played
    assert [won for *_, won in trace].count(True) >= 1 and not trace[0][2]
    refused = [command for command, (text, *_) in zip(commands, trace[1:], strict=True) if text == engine.NOTHING]
    assert 0.02 * len(commands) < len(refused) < 0.3 * len(commands)
    assert {"go", "take", "move"} <= {command.split()[0] for command in commands if command.strip()}


def _without_help(world: engine.World) -> Iterator[engine.Action]:
    return (action for action in APPLICABLE(world) if action[0] != "help")


def _forgetful(world: engine.World, reads: engine.Reads) -> bool:
    return True


def _never_gone(world: engine.World, name: str, binding: dict[str, str]) -> tuple[engine.Changes, engine.Changes]:
    add, delete = EFFECTS(world, name, binding)
    return add, [] if name == "pickupobject" else delete


APPLICABLE, EFFECTS = engine._applicable, engine._effects
FAULTS = {
    "a command is missing": (engine, "_applicable", _without_help),
    "an old text is told again": (engine.World, "_unchanged", _forgetful),
    "an effect is missing": (engine, "_effects", _never_gone),
    "commands are in another order": (engine, "sorted", lambda items: sorted(items, reverse=True)),
    "a goal is never reached": (engine.World, "won", False),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(
    fault: str, played: tuple[Case, list[str], Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, commands, theirs = played
    assert difference(commands, replay(case, commands), theirs) is None
    owner, name, wrong = FAULTS[fault]
    monkeypatch.setattr(owner, name, wrong, raising=False)
    assert difference(commands, replay(case, commands), theirs) is not None


def replay(case: Case, commands: list[str]) -> Trace:
    """What our engine says to given commands."""
    world = engine.World(game.parse_game(case.data))
    trace: Trace = [(world.intro(), list(world.commands), world.won)]
    return trace + [(world.do(command), list(world.commands), world.won) for command in commands]
