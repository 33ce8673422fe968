"""Every algorithm is a row: which part fills each slot, with which defaults.

    collect -> estimator -> modulators -> ratio -> stability -> behaviour weight -> aggregator -> additive terms

`slots` lists the slots, `catalogue` holds the rows and parts. To add an algorithm, write the part that
is new and register a row:

>>> def best_of_group(batch, rewards, *, margin: float = 0.0):
...     best = rewards.trajectory_M.max()
...     return Credit(spread(batch, (rewards.trajectory_M >= best - margin).to(rewards.trajectory_M.dtype)))
>>> _ = register_algorithm(Algorithm("best_of", "none", "trajectory", best_of_group, stability=score_function,
...                                  ratio=no_ratio))
>>> resolve("best_of", {"margin": 0.5})[1]["margin"]
0.5
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..envs.errors import RequestError, UnknownName
from .batch import EXTRAS
from .catalogue import MODULES
from .coefficients import no_ratio, sequence_ratio
from .credit import Credit, spread
from .extract import READERS
from .parameters import MEANING, check_value, keyword_defaults, keyword_types
from .regularizers import epo_warn
from .slots import COLLECT, MANY, NEEDS, ONE, Algorithm, Part

__all__ = ["ALGORITHMS", "Algorithm", "Credit", "check", "describe", "needs", "register_algorithm", "resolve", "spread"]

Slots = Mapping[str, Any]
"""Slot -> name of a part, or a list of names where the slot holds several."""

ALGORITHMS: dict[str, Algorithm] = {row.name: row for module in MODULES for row in module.ROWS}
PARTS: dict[tuple[str, str], Part] = {(p.slot, p.name): p for module in MODULES for p in module.PARTS}


def register_algorithm(algorithm: Algorithm, *, replace: bool = False) -> Algorithm:
    """Add a row to `ALGORITHMS`; RequestError if the name is taken or an override names no parameter."""
    if algorithm.name in ALGORITHMS and not replace:
        raise RequestError(f"Expected a new algorithm name, got {algorithm.name!r}, which exists; pass replace=True.")
    algorithm.defaults()
    ALGORITHMS[algorithm.name] = algorithm
    return algorithm


def register_part(part: Part) -> Part:
    """Add a part to `PARTS`; RequestError if its slot is unknown or its name taken."""
    if part.slot not in (*MANY, *ONE, *COLLECT):
        raise UnknownName("slot", part.slot, (*MANY, *ONE, *COLLECT))
    if (part.slot, part.name) in PARTS:
        raise RequestError(f"Expected a new part of slot {part.slot}, got {part.name!r}, which exists.")
    PARTS[part.slot, part.name] = part
    return part


def find_part(slot: str, name: str) -> Part:
    """The part `name` of a slot, or UnknownName with the nearest one."""
    if slot not in (*MANY, *ONE, *COLLECT):
        raise UnknownName("slot", slot, (*MANY, *ONE, *COLLECT))
    if (slot, name) not in PARTS:
        raise UnknownName(f"part of slot {slot}", name, [n for s, n in PARTS if s == slot])
    return PARTS[slot, name]


def part_of(name: str) -> Part | None:
    """The part of a paper that goes by this name and is no row; None where `name` is a row or nothing known."""
    if name in ALGORITHMS:
        return None
    return next((part for (_, known), part in PARTS.items() if known == name), None)


def compose(algorithm: Algorithm, slots: Slots) -> Algorithm:
    """The row with parts put in: a slot of one part is replaced, one of several gets the part as its last."""
    for slot, names in slots.items():
        if slot in COLLECT:
            raise RequestError(f"Expected a slot of the update, got {slot!r} of the collect side: set rl.{slot}.")
        parts = [find_part(slot, name) for name in ([names] if isinstance(names, str) else names)]
        if slot in ONE and len(parts) != 1:
            raise RequestError(f"Expected one part for slot {slot}, got {len(parts)}.")
        functions = tuple(part.function for part in parts)
        filled = functions[0] if slot in ONE else (*getattr(algorithm, slot), *functions)
        added = frozenset().union(*(part.needs for part in parts))
        algorithm = dataclasses.replace(algorithm, **{slot: filled, "needs": algorithm.needs | added})
    return algorithm


def resolve(
    name: str, overrides: Mapping[str, Any] | None = None, slots: Slots | None = None
) -> tuple[Algorithm, dict[str, Any]]:
    """The row and all its parameters, parts and overrides put in; checks names, types, ranges and contradictions."""
    if name not in ALGORITHMS:
        known = [*ALGORITHMS, *(part for _, part in PARTS)]
        raise UnknownName("algorithm", name, known, hint="`turnwise algorithms` lists all.")
    algorithm = compose(ALGORITHMS[name], slots or {})
    params = algorithm.defaults()
    hints = {key: hint for part in reversed(algorithm.parts()) for key, hint in keyword_types(part).items()}
    for key, value in (overrides or {}).items():
        if key not in params:
            raise UnknownName(f"parameter of {name}", key, params)
        params[key] = check_value(key, value, hints[key])
    _refuse_contradictions(algorithm, params)
    return algorithm, params


def needs(algorithm: Algorithm, params: Mapping[str, Any]) -> frozenset[str]:
    """What the row needs with these settings: its slots' needs and those that a parameter switches on."""
    found = set(algorithm.needs)
    if params["beta"] or params["kl_reward_coef"]:
        found.add("ref_logp")
    if params["entropy_coef"] or params["epo_lambda"]:
        found.add("entropy")
    if params["behaviour"] != "none" or params.get("ratio_base") == "rollout":
        found.add("rollout_logp")
    if params["behaviour"] in ("seq_tis", "seq_mis", "geo_mis"):
        found.add("unit_complete")
    if params.get("baseline") == "group":
        found.add("group_complete")
    return frozenset(found)


def check(
    algorithm: Algorithm,
    params: Mapping[str, Any],
    *,
    samples_per_task: int,
    epochs: int = 1,
    has_reference: bool = False,
    has_critic: bool = False,
    has_rollout_logp: bool = True,
    layout: str = "transcript",
) -> None:
    """Refuse a recipe whose parts contradict each other, before anything starts."""
    needed, name = needs(algorithm, params), algorithm.name
    if layout not in ("transcript", "windowed"):
        raise RequestError(f"Expected layout 'transcript' or 'windowed', got {layout!r}.")
    if "group_complete" in needed and samples_per_task < 2:
        raise RequestError(
            f"Expected samples_per_task >= 2 for {name}, got {samples_per_task}: its baseline is the rest of the group."
        )
    if "critic" in needed and not has_critic:
        raise RequestError(f"Expected a critic for {name}, got none; train with one or choose a critic-free algorithm.")
    if "ref_logp" in needed and not has_reference:
        raise RequestError(f"Expected a reference model for {name} (beta, kl_reward_coef), got none; set both to 0.")
    if "rollout_logp" in needed and not has_rollout_logp:
        raise RequestError(f"Expected log-probs from the sampling engine for {name}, got none; set behaviour=none.")
    for extra in sorted(needed - NEEDS.keys()):
        if extra not in READERS:
            raise RequestError(
                f"Expected a run that can fill {extra!r} for {name} ({EXTRAS.get(extra, 'unknown')}), got none: add a "
                "reader to training.extract.READERS."
            )
    if algorithm.coef is None and algorithm.ratio is no_ratio and epochs > 1:
        raise RequestError(f"Expected epochs=1 for {name}, got {epochs}: without a ratio, reuse of a batch is biased.")
    if params["epo_lambda"]:
        epo_warn(params["epo_kappa_l"])
    _refuse_contradictions(algorithm, params)


def _refuse_contradictions(algorithm: Algorithm, params: Mapping[str, Any]) -> None:
    if params["behaviour"] != "none" and params.get("ratio_base") == "rollout":
        raise RequestError(
            "Expected behaviour=none with ratio_base=rollout, got both: the ratio already corrects for the engine."
        )
    if algorithm.coef is None and algorithm.ratio is sequence_ratio and params["aggregator"] != "seq_mean_token_mean":
        raise RequestError(
            f"Expected aggregator=seq_mean_token_mean for {algorithm.name}, got {params['aggregator']!r}: "
            "its coefficient per token is that of a sequence mean."
        )
    if params["behaviour_low"] > params["behaviour_high"]:
        raise RequestError("Expected behaviour_low <= behaviour_high; swap them.")
    if params["epo_kappa_l"] > params["epo_kappa_r"]:
        raise RequestError("Expected epo_kappa_l <= epo_kappa_r, an interval of entropy; swap them.")


def describe() -> list[dict[str, Any]]:
    """Every row as plain data: the algorithms of `turnwise algorithms --json`."""
    return [_describe_row(row) for _, row in sorted(ALGORITHMS.items())]


def describe_parts() -> list[dict[str, Any]]:
    """Every part that a paper brings and no row is, as plain data: what fills which slot."""
    return [_describe_part(part) for _, part in sorted(PARTS.items()) if part.paper and part.name not in ALGORITHMS]


def _describe_part(part: Part) -> dict[str, Any]:
    params = dict(keyword_defaults(part.function))
    return {
        "name": part.name,
        "slots": {part.slot: part.function.__name__},
        "paper": part.paper,
        "needs": sorted(part.needs),
        "unit": part.unit,
        "params": params,
        "meaning": {name: MEANING.get(name, "") for name in params},
        "source": part.source,
        "left_out": part.left_out,
        "status": part.status,
        "kind": "part",
    }


def _describe_row(row: Algorithm) -> dict[str, Any]:
    params = row.defaults()
    slots = {"advantage": row.estimator.__name__, "behaviour": params["behaviour"], "aggregator": params["aggregator"]}
    slots |= {"additive" if slot == "terms" else slot: [p.__name__ for p in getattr(row, slot)] for slot in MANY}
    slots |= {s: p.__name__ for s in ("ratio", "stability") if row.coef is None and (p := getattr(row, s))}
    slots |= {s: p.__name__ for s in ("coef", "expert", "mixer") if (p := getattr(row, s))}
    return {
        "name": row.name,
        "slots": slots,
        "paper": row.paper,
        "needs": sorted(needs(row, params)),
        "unit": row.unit,
        "params": params,
        "meaning": {name: MEANING.get(name, "") for name in params},
        "source": row.source,
        "left_out": row.left_out,
        "status": row.status,
        "kind": "algorithm",
    }
