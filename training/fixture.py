"""An algorithm on a small batch given as JSON, so that anyone can check it by hand (`turnwise coef`).

Input, B rows and T tokens as nested lists; only `rewards`, `token_rewards` or `turn_rewards` has to be there:

    group [B]            0 throughout: one group
    trajectory [B]       0 .. B-1: one trajectory per row
    mask [B][T]          turn >= 0, else all 1
    turn [B][T]          -1 where masked; each run of action tokens is the next turn of its trajectory
    rewards [B], [B][K]  sum of the trajectory's turn or token rewards
    turn_rewards         {"trajectory,turn": r}, put on the turn's last action token
    token_rewards [B][T] the same by token; neither: the whole return on the last action token
    logp [B][T]          logp_old, else 0;  logp_old: logp
    logp_rollout, logp_ref, entropy, values [B][T]
                         without them the terms that need them are left out (an explicit param is then refused);
                         the critic's value is 0
    new_values [B][T]    the critic after the update so far: values
    anchors              one observation per turn in row order, or a list per row; none: all different
    valid [B][T]         1;  terminated, truncated [B]: 0;  task [B], reward_names [K]: none
    extras               {name: [B] or [B][T]}: what single methods need (`batch.EXTRAS` lists them)
    slots                {slot: part or [parts]}: parts put into the row, as a recipe does
    params, state        overrides; controller state {"step": k, "history": [...]}

A part of the update that is no row of its own is applied on top of `grpo`. A part of the collect side takes
{"inputs": {name: value}, "params": {...}} instead and its answer is {"output": ...}.

Output: advantage, mask (1: the token keeps its gradient), coef, loss (sum of terms), terms, state (of the next step).
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..envs.errors import RequestError, UnknownName
from .algorithms import part_of, resolve
from .batch import Batch, segment_sum
from .objective import advantages, coefficient, loss_weights, next_state, total_loss
from .parameters import call, keyword_defaults
from .regularizers import Update
from .slots import COLLECT, Part, loss_mask

DTYPE = torch.float64
TOKEN_FLOATS = ("token_rewards", "logp", "logp_old", "logp_rollout", "logp_ref", "entropy", "values", "new_values")
TOKEN_KEYS = ("mask", "turn", *TOKEN_FLOATS, "valid")
ROW_KEYS = ("group", "trajectory", "rewards", "task", "terminated", "truncated")
KEYS = (
    *TOKEN_KEYS, *ROW_KEYS, "turn_rewards", "reward_names", "anchors", "params", "state", "extras", "slots",
)  # fmt: skip


def evaluate(algorithm_name: str, fixture: Mapping[str, Any]) -> dict[str, Any]:
    """Advantages, masks, coefficients and loss on a fixture; RequestError says what is wrong with it."""
    if not isinstance(fixture, Mapping):
        raise RequestError(f"Expected a JSON object, got {type(fixture).__name__}.")
    overrides, slots = _mapping(fixture, "params"), _mapping(fixture, "slots")
    part = part_of(algorithm_name)
    if part is not None and part.slot in COLLECT:
        return _collected(part, fixture, overrides)
    if part is not None:
        algorithm_name = "grpo"
        slots[part.slot] = [*_listed(slots.get(part.slot, [])), part.name]
    for key in fixture:
        if key not in KEYS:
            raise UnknownName("fixture key", key, KEYS)
    algorithm, params = resolve(algorithm_name, overrides, slots)
    params = _without_missing(params, overrides, fixture)
    batch, logp_BT, values_BT = read_batch(fixture)
    state = dict(batch.state)
    credit = advantages(algorithm, params, batch)
    batch = dataclasses.replace(batch, extras={**batch.extras, **credit.extras})
    result = coefficient(algorithm, params, batch, credit.adv_BT, logp_BT)
    weights = loss_weights(algorithm, params, batch, credit.weight_BT)
    update = Update(batch, weights, logp_BT, batch.entropy, values_BT, credit.returns_BT, state)
    _, terms = total_loss(algorithm, params, update, result)
    keep_BT = result.keep_BT & call(loss_mask, batch, params=params) & (credit.weight_BT > 0)
    return {
        "advantage": _plain(credit.adv_BT),
        "mask": keep_BT.to(torch.long).tolist(),
        "coef": _plain(result.coef_BT * keep_BT),
        "loss": float(sum(terms.values())),
        "terms": {name: float(value) for name, value in terms.items()},
        "state": next_state(algorithm, params, state, batch),
    }


def read_batch(fixture: Mapping[str, Any]) -> tuple[Batch, Tensor, Tensor]:
    """(validated float64 batch, logp [B, T], values after the update so far [B, T]) of a fixture."""
    B, T = _sizes(fixture)
    given = {key: _tensor(fixture, key, (B, T)) for key in TOKEN_FLOATS if fixture.get(key) is not None}
    ids = {key: _tensor(fixture, key, (B,), torch.long) for key in ("group", "trajectory") if key in fixture}
    group = ids.get("group", torch.zeros(B, dtype=torch.long))
    trajectory = ids.get("trajectory", torch.arange(B))
    mask, turn = _turns(fixture, trajectory, B, T)
    zero_BT = torch.zeros(B, T, dtype=DTYPE)
    logp_BT = given.get("logp", given.get("logp_old", zero_BT))
    values_BT = given.get("values", zero_BT)
    token_rewards = _token_rewards(fixture, given.get("token_rewards"), trajectory, turn)
    flags = {k: _tensor(fixture, k, (B,), torch.bool) for k in ("terminated", "truncated") if k in fixture}
    batch = Batch(
        group=group,
        trajectory=trajectory,
        mask=mask,
        turn=turn,
        rewards=_rewards(fixture, token_rewards, trajectory, B),
        reward_names=tuple(fixture.get("reward_names", ())),
        task=_strings(fixture, "task", B),
        token_rewards=token_rewards,
        logp_old=given.get("logp_old", logp_BT),
        logp_rollout=given.get("logp_rollout"),
        logp_ref=given.get("logp_ref"),
        entropy=given.get("entropy"),
        values=values_BT,
        anchors=_anchors(fixture.get("anchors"), [len(set(row) - {-1}) for row in turn.tolist()]),
        valid=_tensor(fixture, "valid", (B, T), torch.bool) if "valid" in fixture else None,
        extras=_extras(fixture),
        state=_state(fixture),
        **flags,
    )
    return batch.validate(), logp_BT, given.get("new_values", values_BT)


def _collected(part: Part, fixture: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What a part of the collect side answers to the inputs of a fixture."""
    inputs = _mapping(fixture, "inputs")
    wanted = [p.name for p in inspect.signature(part.function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    if sorted(inputs) != sorted(wanted):
        raise RequestError(f"Expected inputs {', '.join(wanted)} for {part.name}, got {', '.join(inputs) or 'none'}.")
    known = keyword_defaults(part.function)
    for name in overrides:
        if name not in known:
            raise UnknownName(f"parameter of {part.name}", name, known)
    return {"output": part.function(**inputs, **overrides)}


def _listed(names: Any) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _extras(fixture: Mapping[str, Any]) -> dict[str, Tensor]:
    found = {}
    for name, value in _mapping(fixture, "extras").items():
        try:
            found[name] = torch.tensor(value, dtype=DTYPE)
        except (TypeError, ValueError) as error:
            raise RequestError(f"Expected extras.{name} as numbers [B] or [B][T], got {value!r:.80}.") from error
    return found


def _without_missing(
    params: dict[str, Any], overrides: Mapping[str, Any], fixture: Mapping[str, Any]
) -> dict[str, Any]:
    """Params with the terms off whose input the fixture does not give; refused if a param asked for them."""
    switches = {
        "logp_ref": ("beta", "kl_reward_coef"),
        "entropy": ("entropy_coef", "epo_lambda"),
        "values": ("value_coef",),
        "logp_rollout": ("behaviour", "ratio_base"),
    }
    params = dict(params)
    for key, names in switches.items():
        if fixture.get(key) is not None:
            continue
        for name in names:
            asked = overrides.get(name)
            if asked and asked not in ("none", "old"):
                raise RequestError(f"Expected {key} [B][T] because params set {name}={asked!r}, got none; add it.")
            if name in params and isinstance(params[name], float):
                params[name] = 0.0
    return params


def _sizes(fixture: Mapping[str, Any]) -> tuple[int, int]:
    """(B, T) from the first key that tells; T is 1 where only rows are given."""
    for key in TOKEN_KEYS:
        value = fixture.get(key)
        if value is not None:
            if not isinstance(value, list) or not value or not all(isinstance(row, list) and row for row in value):
                raise RequestError(f"Expected {key} as a list of B lists of T numbers, got {value!r:.80}.")
            return len(value), len(value[0])
    for key in ROW_KEYS:
        value = fixture.get(key)
        if value is not None:
            if not isinstance(value, list) or not value:
                raise RequestError(f"Expected {key} as a list of B entries, got {value!r:.80}.")
            return len(value), 1
    raise RequestError("Expected at least rewards [B], got nothing that tells the number of rows.")


def _tensor(fixture: Mapping[str, Any], key: str, shape: tuple[int, ...], dtype: torch.dtype = DTYPE) -> Tensor:
    """The key's value as a tensor of this shape, or RequestError."""
    want = "".join(f"[{size}]" for size in shape)
    try:
        found = torch.tensor(fixture[key], dtype=DTYPE)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RequestError(f"Expected {key} as numbers of shape {want}, got {fixture[key]!r:.80} ({error}).") from error
    if tuple(found.shape) != shape:
        got = "".join(f"[{size}]" for size in found.shape)
        raise RequestError(f"Expected {key} of shape {want}, got {got}; pad rows to one length and mask the padding.")
    if dtype != DTYPE and (found != found.to(dtype).to(DTYPE)).any():
        raise RequestError(f"Expected {key} of type {'0 or 1' if dtype == torch.bool else 'whole number'}, got others.")
    return found.to(dtype)


def _turns(fixture: Mapping[str, Any], trajectory: Tensor, B: int, T: int) -> tuple[Tensor, Tensor]:
    """mask and turn [B, T], either from the other where one is missing."""
    turn = _tensor(fixture, "turn", (B, T), torch.long) if fixture.get("turn") is not None else None
    if fixture.get("mask") is not None:
        mask = _tensor(fixture, "mask", (B, T), torch.bool)
    else:
        mask = torch.ones(B, T, dtype=torch.bool) if turn is None else turn >= 0
    if turn is not None:
        return mask, turn
    before = torch.cat([torch.zeros(B, 1, dtype=torch.bool), mask[:, :-1]], dim=1)
    run_BT = (mask & ~before).long().cumsum(1) - 1
    earlier: dict[int, int] = {}
    for row, owner in enumerate(trajectory.tolist()):
        first = earlier.get(owner, 0)
        run_BT[row] += first
        earlier[owner] = int(run_BT[row].max()) + 1
    return mask, torch.where(mask, run_BT, -1)


def _token_rewards(
    fixture: Mapping[str, Any], token_rewards: Tensor | None, trajectory: Tensor, turn: Tensor
) -> Tensor | None:
    by_turn = fixture.get("turn_rewards")
    if by_turn is None:
        return token_rewards
    if token_rewards is not None:
        raise RequestError("Expected turn_rewards or token_rewards, got both; keep one.")
    placed = torch.zeros(turn.shape, dtype=DTYPE)
    for key, reward in _mapping(fixture, "turn_rewards").items():
        try:
            owner, index = (int(part) for part in key.split(","))
            value = float(reward)
        except (TypeError, ValueError) as error:
            raise RequestError(f'Expected turn_rewards as {{"trajectory,turn": number}}, got {key!r}.') from error
        spots = ((trajectory[:, None] == owner) & (turn == index)).nonzero()
        if index < 0 or len(spots) == 0:
            raise RequestError(f"Expected turn_rewards of turns in the batch, got {key!r}, which has no action tokens.")
        placed[tuple(spots[-1])] = value
    return placed


def _rewards(fixture: Mapping[str, Any], token_rewards: Tensor | None, trajectory: Tensor, B: int) -> Tensor:
    given = fixture.get("rewards")
    if given is not None:
        nested = isinstance(given, list) and bool(given) and isinstance(given[0], list)
        shape = (B, len(given[0])) if nested else (B,)
        return _tensor(fixture, "rewards", shape).reshape(B, -1)
    if token_rewards is None:
        raise RequestError("Expected rewards [B] or [B][K], turn_rewards or token_rewards, got none of them.")
    _, index = torch.unique(trajectory, return_inverse=True)
    return segment_sum(token_rewards.sum(1), index, int(index.max()) + 1)[index][:, None]


def _anchors(given: Any, turns_by_row: list[int]) -> list[list[str]]:
    """Anchors by row; turns without one each get their own."""
    if given is None:
        return [[f"{row}/{turn}" for turn in range(count)] for row, count in enumerate(turns_by_row)]
    if not isinstance(given, list):
        raise RequestError(f"Expected anchors as a list, got {given!r:.80}.")
    if given and all(isinstance(row, list) for row in given):
        found = given
    elif len(given) == sum(turns_by_row):
        rest = iter(given)
        found = [[next(rest) for _ in range(count)] for count in turns_by_row]
    else:
        raise RequestError(f"Expected {sum(turns_by_row)} anchors, one per turn in row order, got {len(given)}.")
    return [[str(anchor) for anchor in row] for row in found]


def _strings(fixture: Mapping[str, Any], key: str, size: int) -> list[str] | None:
    value = fixture.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != size:
        raise RequestError(f"Expected {key} as {size} texts, got {value!r:.80}.")
    return [str(entry) for entry in value]


def _state(fixture: Mapping[str, Any]) -> dict[str, Any]:
    state = {"history": [], **_mapping(fixture, "state")}
    history = state["history"]
    if not isinstance(history, list) or not all(isinstance(past, (int, float)) for past in history):
        raise RequestError(f"Expected state.history as a list of numbers, got {history!r:.80}.")
    return {"step": len(history), **state}


def _mapping(fixture: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = fixture.get(key) or {}
    if not isinstance(value, Mapping):
        raise RequestError(f"Expected {key} as an object, got {value!r:.80}.")
    return dict(value)


def _plain(x_BT: Tensor) -> list[list[float]]:
    return (x_BT + 0.0).tolist()  # + 0.0 turns -0.0 into 0.0
