"""What your own tests may look like: a number by hand, and turnwise's kit."""

from my_envs.lights import flip, solve
from turnwise.envs.check import check_env


def test_a_switch_flips_its_neighbours() -> None:
    assert flip((True, True, True, True), 0) == (False, False, True, True)
    assert flip((True, True, True, True), 2) == (True, False, False, False)


def test_the_solution_is_the_shortest() -> None:
    assert solve((False, False, True, True)) == [0]
    assert solve((False, True, False)) == [0, 2]


def test_all_promises_hold() -> None:
    report = check_env("my_envs/Lights-v0", tasks_per_split=1)
    assert report.ok, [check for check in report.checks if not check.ok]
