"""Which generators of reasoning-gym are played, by family; which are left out and why; the splits and their tasks."""

from __future__ import annotations

from typing import Any

from ..errors import RequestError, UnknownName
from ..task import Task

ENV_ID = "turnwise/ReasoningGym-v0"

FAMILIES: dict[str, tuple[str, ...]] = {
    "algebra": ("complex_arithmetic", "polynomial_equations", "simple_equations"),
    "algorithmic": (
        "ab", "base_conversion", "binary_alternation", "binary_matrix", "caesar_cipher", "count_primes", "cryptarithm",
        "game_of_life", "game_of_life_halting", "graph_color", "group_anagrams", "jugs", "letter_counting",
        "letter_jumble", "manipulate_matrix", "number_filtering", "number_sorting", "palindrome_generation",
        "palindrome_partitioning", "pool_matrix", "rotate_matrix", "rotten_oranges", "sentence_reordering",
        "spell_backward", "spiral_matrix", "string_insertion", "string_manipulation", "string_splitting",
        "string_synthesis", "word_sequence_reversal", "word_sorting",
    ),
    "arc": ("arc_1d", "arc_agi", "rearc"),
    "arithmetic": (
        "basic_arithmetic", "bitwise_arithmetic", "calendar_arithmetic", "chain_sum", "count_bits",
        "decimal_arithmetic", "decimal_chain_sum", "dice", "fraction_simplification", "gcd", "gsm_symbolic", "lcm",
        "leg_counting", "number_format", "power_function", "prime_factorization", "products", "time_intervals",
    ),
    "code": ("bf", "codeio"),
    "cognition": (
        "color_cube_rotation", "figlet_font", "modulo_grid", "needle_haystack", "number_sequence", "rectangle_count",
        "rubiks_cube",
    ),
    "games": (
        "boxnet", "countdown", "emoji_mystery", "futoshiki", "kakurasu", "mahjong_puzzle", "maze", "mini_sudoku",
        "n_queens", "puzzle24", "rush_hour", "sokoban", "sudoku", "survo", "tower_of_hanoi", "tsumego",
    ),
    "geometry": ("advanced_geometry", "simple_geometry"),
    "graphs": (
        "course_schedule", "family_relationships", "largest_island", "path_star", "quantum_lock", "shortest_path",
    ),
    "induction": ("acre",),
    "logic": ("aiw", "circuit_logic", "knights_knaves", "self_reference", "syllogism", "zebra_puzzles"),
    "probability": ("coin_flip",),
}  # fmt: skip
"""Family (folder of the library) -> generators that are deterministic and whose grader tells right from wrong."""

UNSEEN = ("cognition", "geometry", "induction", "probability")
"""Families that no training task has."""

LEFT_OUT: dict[str, str] = {
    "composite": "it only mixes other generators",
    "isomorphic_strings": "its tasks depend on the hash seed of the process",
    "knight_swap": "its tasks depend on the hash seed of the process",
    "list_functions": "its tasks depend on the hash seed of the process",
    "polynomial_multiplication": "its tasks depend on the hash seed of the process",
    "ransom_note": "its tasks depend on the hash seed of the process",
    "word_ladder": "its tasks depend on the hash seed of the process",
    "propositional_logic": "some of its questions have no answer that is worth 1",
    "simple_integration": "its grader hands the answer to sympy, which runs code and may never end",
    "intermediate_integration": "its grader hands the answer to sympy, which runs code and may never end",
}
"""Generators of the library that are not played -> why."""

MAX_LEVEL = 2
TOP_LEVEL = {
    "caesar_cipher": 1, "jugs": 1, "modulo_grid": 0, "needle_haystack": 1, "number_sorting": 1, "rubiks_cube": 0,
    "survo": 1, "tsumego": 0,
}  # fmt: skip
"""Generators whose curriculum breaks, takes seconds or pages, or is not solved here, above this level."""
PLAIN = ("acre", "gsm_symbolic")
"""Generators without a curriculum: every level is their default."""

SEEDS = {"train": 300, "validation": 5, "test": 10, "unseen": 20}
"""Split -> seeds per generator."""
FIRST_SEED = {split: 1_000_000 * index for index, split in enumerate(SEEDS)}


def families(split: str) -> dict[str, tuple[str, ...]]:
    """The families of a split with their generators."""
    return {family: names for family, names in FAMILIES.items() if (family in UNSEEN) is (split == "unseen")}


def family_of(name: str) -> str:
    """The family of a generator."""
    return next(family for family, names in FAMILIES.items() if name in names)


def splits() -> dict[str, int]:
    """Split -> number of tasks."""
    return {split: seeds * sum(map(len, families(split).values())) for split, seeds in SEEDS.items()}


def make_tasks(
    split: str,
    count: int | None = None,
    *,
    names: str | tuple[str, ...] | list[str] | None = None,
    family: str | None = None,
    level: int | None = None,
    config: dict[str, Any] | None = None,
) -> list[Task]:
    """The first `count` tasks of `split`: the first seed of every generator, then the next.

    names: one or several generators of the split. family: all generators of one. level: 0 to 2 of the generator's
    curriculum; by default the library's defaults. config: arguments of one named generator.
    """
    if split not in SEEDS:
        raise UnknownName("split of ReasoningGym", split, SEEDS)
    wanted = _wanted(split, names, family)
    if level is not None and (isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= MAX_LEVEL):
        raise RequestError(f"Expected a level from 0 to {MAX_LEVEL} or None, got {level!r}.")
    if config is not None and (not isinstance(config, dict) or len(wanted) != 1 or level is not None):
        raise RequestError(f"Expected config as a dict, with one generator in names and without a level, got {config!r}"
                           f" with {len(wanted)} generators and level {level!r}.")  # fmt: skip
    pairs = ((index, name) for index in range(SEEDS[split]) for name in wanted)
    made = [
        Task(env=ENV_ID, seed=FIRST_SEED[split] + index, max_turns=1, split=split, goal="Answer the question.",
             params={"dataset": name, "level": level, "config": config or {}},
             difficulty=None if level is None else float(level), meta={"task_type": name, "family": family_of(name)})
        for index, name in pairs
    ]  # fmt: skip
    return made[:count]


def _wanted(split: str, names: str | tuple[str, ...] | list[str] | None, family: str | None) -> tuple[str, ...]:
    known = families(split)
    if family is not None:
        if family not in known:
            raise UnknownName(f"family of split {split!r}", str(family), known)
        known = {family: known[family]}
    everything = tuple(name for members in known.values() for name in members)
    wanted = everything if names is None else (names,) if isinstance(names, str) else tuple(names)
    for name in wanted:
        if name in LEFT_OUT:
            raise RequestError(
                f"Expected a generator that is played, got {name!r}, which is left out: {LEFT_OUT[name]}."
            )
        if name not in everything:
            raise UnknownName(f"generator of split {split!r}", str(name), everything)
    return wanted
