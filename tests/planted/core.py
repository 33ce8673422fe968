"""Bugs in credit, coefficients, masks, aggregation, and in the loop around them."""

from __future__ import annotations

from .record import Mutant

CREDIT, COEF, REG = "training/credit.py", "training/coefficients.py", "training/regularizers.py"
AGG, BATCH, ROWS, OBJ = "training/aggregate.py", "training/batch.py", "training/algorithms.py", "training/objective.py"
DOOR = "training/fixture.py"
T_CREDIT, T_COEF, T_REG = ("test_credit.py",), ("test_coefficients.py",), ("test_regularizers.py",)
T_ROWS, T_DOOR, T_BATCH = ("test_algorithms.py",), ("test_fixture.py",), ("test_batch.py",)

CLASSIC = "training/catalogue/classic.py"


MUTANTS = (
    Mutant(
        "clip bounds swapped",
        COEF,
        "ratio_BT.clamp(1 - clip_low, 1 + clip_high))\n    keep",
        "ratio_BT.clamp(1 - clip_high, 1 + clip_low))\n    keep",
        T_COEF,
    ),
    Mutant("clip mask swapped", COEF, "ratio_BT > 1 + clip_high)", "ratio_BT > 1 + clip_low)", T_COEF),
    Mutant("clip drops both sides", COEF, "over = (adv_BT > 0) & (", "over = (adv_BT == adv_BT) & (", T_COEF),
    Mutant("dual clip on positive advantages", COEF, "~((adv_BT < 0) & (", "~((adv_BT == adv_BT) & (", T_COEF),
    Mutant("ratio upside down", COEF, "torch.exp(log_ratio(logp_BT", "torch.exp(-log_ratio(logp_BT", T_COEF),
    Mutant("ratio against the wrong policy", COEF, '"logp_old" if base == "old"', '"logp_old" if base', T_ROWS),
    Mutant(
        "sequence ratio sums", COEF, "/ torch.bincount(index[index >= 0], minlength=count).clamp(min=1)", "", T_COEF
    ),
    Mutant("tis has no cap", COEF, "rho_BT.clamp(max=behaviour_high)", "rho_BT", T_COEF),
    Mutant("icepop keeps outliers", COEF, "weight_BT = inside_BT * (", "weight_BT = (", T_COEF),
    Mutant(
        "masked log-probs leak",
        COEF,
        "minlength=count).clamp(min=1)",
        "minlength=count).clamp(min=1) + x_BT.sum() * 0",
        T_COEF,
    ),
    Mutant(
        "sequence ratio counts masked tokens",
        BATCH,
        "return torch.where(self.mask, row_BT, -1)",
        "return row_BT",
        T_COEF,
    ),
    Mutant(
        "group mean is the global mean",
        CREDIT,
        "unit_stats(mean_score_M, traj.group_M, traj.groups, lone_mean_zero=True)",
        "unit_stats(mean_score_M, traj.group_M * 0, traj.groups, lone_mean_zero=True)",
        T_CREDIT,
    ),
    Mutant("population std", CREDIT, "/ (n - 1).clamp(min=1)\n", "/ n.clamp(min=1)\n", T_CREDIT),
    Mutant(
        "std ignored",
        CREDIT,
        "return (score_N - mean_N) / (std_N + 1e-6 if normalize else 1.0)",
        "return score_N - mean_N",
        T_CREDIT,
    ),
    Mutant("rloo scale", CREDIT, "centred_M * size_M / (size_M - 1)", "centred_M", T_CREDIT),
    Mutant("rloo accepts one sample", CREDIT, "if (size_M < 2).any():", "if (size_M < 1).any():", T_CREDIT),
    Mutant(
        "gae stops at environment tokens",
        CREDIT,
        "running = torch.where(keep, delta + gamma * lam * running, running)",
        "running = torch.where(keep, delta + gamma * lam * running, 0.0)",
        T_CREDIT,
    ),
    Mutant(
        "gae reads masked values",
        CREDIT,
        "next_value = torch.where(keep, value_ML[:, t], next_value)",
        "next_value = value_ML[:, t]",
        T_CREDIT,
    ),
    Mutant("gae forgets lambda", CREDIT, "delta + gamma * lam * running", "delta + gamma * running", T_CREDIT),
    Mutant("turn gae leaks over turns", CREDIT, "gamma, lam, end_ML=end_ML)", "gamma, lam)", T_CREDIT),
    Mutant(
        "turn gae discounts by the token",
        CREDIT,
        "values_ML, end_ML, gamma_turn, lam",
        "values_ML, end_ML, gamma, lam",
        T_CREDIT,
    ),
    Mutant(
        "truncated counts as terminated",
        CREDIT,
        "if not bootstrap or batch.truncated is None or",
        "if True or",
        T_CREDIT,
    ),
    Mutant("a deadline bootstraps anyway", CREDIT, "if not bootstrap or batch", "if batch", T_CREDIT),
    Mutant("terminated bootstraps too", CREDIT, "after_BT * batch.truncated[:, None]", "after_BT", T_CREDIT),
    Mutant("buckets across tasks", CREDIT, "key = (groups[row], ", "key = (0, ", T_CREDIT),
    Mutant("step returns cross trajectories", CREDIT, "if owner[n] == owner[n + 1]:", "if True:", T_CREDIT),
    Mutant(
        "invalid penalty reaches earlier turns",
        CREDIT,
        "index_BT, N), gamma) - penalty_N",
        "index_BT, N) - penalty_N, gamma)",
        T_CREDIT,
    ),
    Mutant("omega dropped", CREDIT, "episode_adv_N + omega * step_adv_N", "episode_adv_N + step_adv_N", T_CREDIT),
    Mutant("whitening counts padding", CREDIT, "x = adv_BT[batch.mask]", "x = adv_BT.flatten()", T_CREDIT),
    Mutant(
        "kl in reward has the wrong sign",
        CREDIT,
        "token_BT = token_BT - kl_reward_coef",
        "token_BT = token_BT + kl_reward_coef",
        T_CREDIT,
    ),
    Mutant(
        "kl in reward misses the return",
        CREDIT,
        "trajectory_M = trajectory_M - kl_reward_coef",
        "trajectory_M = trajectory_M - 0",
        T_CREDIT,
    ),
    Mutant(
        "reward on every row's end",
        CREDIT,
        "token_BT = last_BT * trajectory_M[owner_BT]",
        "token_BT = batch.mask * trajectory_M[owner_BT]",
        T_CREDIT,
    ),
    Mutant(
        "sequence mean is a token sum",
        AGG,
        "batch.mask.to(dtype) / (length_BT * max(count, 1))",
        "batch.mask.to(dtype) / max(count, 1)",
        T_COEF,
    ),
    Mutant("hierarchy is flat", AGG, "turns_M[turns.trajectory_N] * turns.length_N", "turns.length_N.sum()", T_COEF),
    Mutant(
        "sequences are rows",
        BATCH,
        "row_BT = self.trajectories.row_B[:, None]",
        "row_BT = torch.arange(len(self.group))[:, None]",
        T_ROWS,
    ),
    Mutant(
        "tokens packed out of order",
        BATCH,
        "order = torch.argsort(turn, stable=True)",
        "order = torch.argsort(-turn, stable=True)",
        T_CREDIT,
    ),
    Mutant("mean of equals drifts", BATCH, "return torch.where(low == high, low, mean)", "return mean", T_CREDIT),
    Mutant(
        "reward on a masked token is accepted",
        BATCH,
        "(batch.token_rewards[~batch.mask] != 0).any()",
        "False",
        T_BATCH,
    ),
    Mutant("groups may mix tasks", BATCH, "if seen.setdefault(group, task) != task:", "if False:", T_BATCH),
    Mutant("k3 is k2", REG, "(torch.exp(-d_BT) + d_BT - 1)", "(d_BT**2 / 2)", T_REG),
    Mutant("kl the other way round", REG, "d_BT = (logp_BT - ref_BT)", "d_BT = (ref_BT - logp_BT)", T_REG),
    Mutant("k3+ has the gradient of k3", REG, "return k3_BT.detach() + k2_BT - k2_BT.detach()", "return k3_BT", T_REG),
    Mutant(
        "epo mean is flat",
        REG,
        "-epo_lambda * (_epo_weights(update, epo_mean)",
        "-epo_lambda * (update.weights.token_BT",
        T_REG,
    ),
    Mutant(
        "epo corridor is flat",
        REG,
        "epo_alpha * (_epo_weights(update, epo_mean)",
        "epo_alpha * (update.weights.token_BT",
        T_REG,
    ),
    Mutant(
        "epo history holds the current step",
        DOOR,
        "credit = advantages(",
        "state = next_state(algorithm, params, state, batch)\n    credit = advantages(",
        T_DOOR,
    ),
    Mutant("epo history slides", REG, '"history": [*history, mean]', '"history": [mean]', T_REG),
    Mutant(
        "epo indicator",
        REG,
        "return torch.relu(kappa_l * mean - entropy) + torch.relu(entropy - kappa_r * mean)",
        "return ((entropy < kappa_l * mean) | (entropy > kappa_r * mean)) * (1 + 0 * entropy)",
        T_REG,
    ),
    Mutant("epo phase over the whole run", REG, "max(steps // 2, 1)", "max(steps, 1)", T_REG),
    Mutant("epo bonus lowers entropy", REG, "return -epo_lambda *", "return epo_lambda *", T_REG),
    Mutant(
        "value clip takes the better error",
        REG,
        "error_BT = torch.maximum(error_BT",
        "error_BT = torch.minimum(error_BT",
        T_REG,
    ),
    Mutant(
        "loss has the wrong sign", OBJ, "loss = -(update.weights.policy_BT", "loss = (update.weights.policy_BT", T_ROWS
    ),
    Mutant(
        "micro-batch denominators",
        OBJ,
        "(update.weights.policy_BT * result.surrogate_BT).sum()",
        "(result.surrogate_BT.sum() / update.batch.mask.sum())",
        T_ROWS,
    ),
    Mutant(
        "advantage dropped from the coefficient",
        OBJ,
        "factor.factor_BT * adv_BT * guard_BT",
        "factor.factor_BT * guard_BT",
        T_ROWS,
    ),
    Mutant(
        "no reference needed for kl in reward",
        ROWS,
        'params["beta"] or params["kl_reward_coef"]',
        'params["beta"]',
        T_ROWS,
    ),
    Mutant("dr_grpo divides by std", CLASSIC, '"normalize": False, ', "", T_DOOR),
    Mutant("dapo clips symmetrically", CLASSIC, '"clip_high": 0.28, ', "", T_DOOR),
)
