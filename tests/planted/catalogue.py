"""Bugs in the rows of papers and in what feeds them."""

from __future__ import annotations

from .record import Mutant

STAB, OFFP, MIX = (f"training/catalogue/{name}.py" for name in ("stability", "offpolicy", "mixing"))
BATCH, EXTRACT = "training/batch.py", "training/extract.py"
RETRY, REPLAY, CURVATURE = (f"training/{name}.py" for name in ("retry", "replay", "curvature"))
T_RETRY, T_REPLAY, T_CURVATURE, T_MODES = (
    ("test_retry.py",), ("test_replay.py",), ("test_curvature.py",), ("test_modes.py",),
)  # fmt: skip
T_STAB, T_MIX, T_SHOWN = (
    ("test_catalogue_stability.py",),
    ("test_catalogue_mixing.py",),
    ("test_catalogue_experts.py",),
)

AGENTIC, COSTS, PROCESS = (f"training/catalogue/{name}.py" for name in ("agentic", "costs", "process"))
DIAG, LEARNER, TRAINER = "training/diagnostics.py", "training/learner.py", "training/trainer.py"
T_AGENTIC, T_COSTS, T_DIAG = ("test_catalogue_agentic.py",), ("test_catalogue_costs.py",), ("test_diagnostics.py",)
GROUP, T_GROUP = "training/catalogue/group.py", ("test_catalogue_group.py",)
REGRESSION, T_REGRESSION = "training/catalogue/regression.py", ("test_catalogue_regression.py",)
REWARDING, SELECTION = "training/catalogue/rewarding.py", "training/catalogue/selection.py"
SAMPLING, SAMPLER = "training/catalogue/sampling.py", "training/sampler.py"
T_REWARDING, T_SELECTION = ("test_catalogue_rewarding.py",), ("test_catalogue_selection.py",)
T_SAMPLING = ("test_catalogue_sampling.py",)

MUTANTS = (
    Mutant("sapo has one temperature", STAB, "masked_fill(adv_BT < 0, tau_negative)", "clone()", T_STAB),
    Mutant("sapo detaches its gate", STAB, "4 * ratio_BT * gate_BT * (1 - gate_BT)", "4 * ratio_BT * gate_BT", T_STAB),
    Mutant("topr tapers wins", STAB, "faded_BT = (adv_BT < 0) & (ratio_BT < 1)", "faded_BT = ratio_BT < 1", T_STAB),
    Mutant("bapo counts dropped losses", STAB, "by_low.flip(0).cumsum(0).flip(0)[1:]", "by_low.cumsum(0)[1:]", T_STAB),
    Mutant("bapo starts at the end", STAB, "return low, highs[0]", "return lows[-1], highs[0]", T_STAB),
    Mutant("bapo's bounds slip by rounding", STAB, "EDGE = 1e-6", "EDGE = 0.0", T_STAB),
    Mutant("off-policy mask drops wins", STAB, "~((adv_BT < 0) & left_BT)", "~left_BT", T_STAB),
    Mutant("off-policy mask looks the wrong way", STAB, "segment_mean(-log_ratio", "segment_mean(log_ratio", T_STAB),
    Mutant("capo forgets the softmax's curvature", STAB, "(along_N**2 - spread_N)", "along_N**2", T_STAB),
    Mutant("capo masks one-sidedly", STAB, 'batch.extra("m_H").abs()', 'batch.extra("m_H")', T_STAB),
    Mutant("rec keeps runaway losses", OFFP, "((adv_BT <= 0) & ~under)", "(adv_BT <= 0)", T_STAB),
    Mutant("rec ring is the same for both signs", OFFP, "(adv_BT >= 0) & (ratio_BT <= 1 -", "(ratio_BT <= 1 -", T_STAB),
    Mutant("opmd pulls half as hard", OFFP, "adv_BT - 2 * opmd_tau * gap_BT", "adv_BT - opmd_tau * gap_BT", T_STAB),
    Mutant(
        "opmd's soft baseline overflows",
        OFFP,
        "(rewards.trajectory_M - top_M) / tau",
        "rewards.trajectory_M / tau",
        T_STAB,
    ),
    Mutant("asymre shifts the other way", OFFP, "- mean_M + asymre_shift", "- mean_M - asymre_shift", T_STAB),
    Mutant("red drops one too many", OFFP, "2 * len(losers) - len(ids)", "2 * len(losers) - len(ids) + 1", T_STAB),
    Mutant(
        "red keeps the old mean",
        OFFP,
        "left = batch.rows(row_B.nonzero()[:, 0])",
        "left = batch; row_B |= True; keep_M |= True",
        T_STAB,
    ),
    Mutant(
        "remix clips around 1",
        OFFP,
        "low_BT, high_BT = shift_BT - clip_low, shift_BT + clip_high",
        "low_BT, high_BT = 0 * shift_BT + 1 - clip_low, 0 * shift_BT + 1 + clip_high",
        T_STAB,
    ),
    Mutant(
        "remix swaps base and previous",
        OFFP,
        "share * base_BT + (1 - share) * last_BT",
        "share * last_BT + (1 - share) * base_BT",
        T_STAB,
    ),
    Mutant("phi is p", MIX, "p_BT * (1 - p_BT) if phi", "p_BT if phi", T_MIX),
    Mutant("shaping forgets p", MIX, "adv_BT * shape_gamma * p_BT /", "adv_BT * shape_gamma /", T_MIX),
    Mutant("chord's mu is the own share", MIX, "_shares(batch, 1 - mu, mu)", "_shares(batch, mu, 1 - mu)", T_MIX),
    Mutant(
        "chord's cosine falls twice as fast",
        MIX,
        "math.pi * (step - warmup) / decay",
        "2 * math.pi * (step - warmup) / decay",
        T_MIX,
    ),
    Mutant("hpt's gate is exclusive", MIX, "<= hpt_gate", "< hpt_gate", T_MIX),
    Mutant("experts count as successes", MIX, "& ~other_M)", "& (other_M == other_M))", T_MIX),
    Mutant(
        "own statistics see experts",
        MIX,
        "own_B = own_rows(batch)\n    adv_BT",
        "own_B = own_rows(batch) | True\n    adv_BT",
        T_MIX,
    ),
    Mutant("srft weighs losses too", MIX, "[:, None] & (adv_BT > 0)", "[:, None] & (adv_BT != 0)", T_MIX),
    Mutant("worst teachers first", MIX, "(-scores[i], i)", "(scores[i], i)", T_MIX),
    Mutant(
        "demonstrations carry zeros for log-probs",
        EXTRACT,
        "torch.where(engine_BT, rollout, batch.logp_old)",
        "rollout",
        T_SHOWN,
    ),
    Mutant(
        "the gap reads demonstrations",
        EXTRACT,
        "return batch.mask & ~torch.isin",
        "return batch.mask | torch.isin",
        T_SHOWN,
    ),
    Mutant("experts in every group", "training/augment.py", 'rl.experts_in == "every" or not', "not", T_SHOWN),
    Mutant(
        "demonstrations count as solved",
        EXTRACT,
        "if t.success and PROVENANCE.get(t.agent, 0) in OWN",
        "if t.success",
        T_SHOWN,
    ),
)
MUTANTS += (
    Mutant("empg forgets the mean of g", AGENTIC, "weight_N / weight_N.mean()", "weight_N", T_AGENTIC),
    Mutant("empg bonus crosses episodes", AGENTIC, "clear_N[1:] * follows_N", "clear_N[1:]", T_AGENTIC),
    Mutant("empg bonus from the own turn", AGENTIC, "clear_N[1:] * follows_N", "clear_N[:-1] * follows_N", T_AGENTIC),
    Mutant(
        "empg centres by token", AGENTIC, "changed_BT - by_turn_N.mean()", "changed_BT - changed_BT.mean()", T_AGENTIC
    ),
    Mutant(
        "similar anchors across groups",
        AGENTIC,
        "leaders.setdefault(group, [])",
        "leaders.setdefault(0, [])",
        T_AGENTIC,
    ),
    Mutant(
        "similar anchors in row order",
        AGENTIC,
        "sorted({(group, text) for group, row in zip(groups, anchors, strict=True) for text in row})",
        "list(dict.fromkeys((group, text) for group, row in zip(groups, anchors, strict=True) for text in row))",
        T_AGENTIC,
    ),
    Mutant(
        "carried ratio includes the own turn",
        AGENTIC,
        "ratios[n + 1], low), high)",
        "ratios[n], low), high)",
        T_AGENTIC,
    ),
    Mutant(
        "carried product is not clipped",
        AGENTIC,
        "min(max(product[n + 1] * later, low), high)",
        "product[n + 1] * later",
        T_AGENTIC,
    ),
    Mutant("carried ratio crosses episodes", AGENTIC, "if owner[n] == owner[n + 1]:", "if True:", T_AGENTIC),
    Mutant(
        "turns in order instead of reverse",
        LEARNER,
        "range(int(batch.turn.max()), -1, -1)",
        "range(int(batch.turn.max()) + 1)",
        T_AGENTIC,
    ),
    Mutant(
        "later turns forget their update",
        LEARNER,
        'extras={**batch.extras, "logp_after": after})',
        'extras={**batch.extras, "logp_after": batch.logp_old})',
        T_AGENTIC,
    ),
    Mutant(
        "r3l amplifies losses", AGENTIC, "torch.where(adv_BT > 0, amplify", "torch.where(adv_BT < 0, amplify", T_AGENTIC
    ),
    Mutant("pivot turned round", AGENTIC, "(batch.turn >= batch.extra", "(batch.turn < batch.extra", T_AGENTIC),
    Mutant(
        "prime leaves nobody out", PROCESS, "(n_B1 * q_BT - sum_B1) / (n_B1 - 1)", "q_BT - sum_B1 / n_B1", T_AGENTIC
    ),
    Mutant(
        "prime pays each token alone",
        PROCESS,
        "process_weight * discounted_returns(batch, own_BT, 1.0)",
        "process_weight * own_BT",
        T_AGENTIC,
    ),
    Mutant(
        "process model learns the opposite",
        PROCESS,
        "(torch.sigmoid(logit_M) - label_M)",
        "(label_M - torch.sigmoid(logit_M))",
        T_AGENTIC,
    ),
    Mutant(
        "pav forgets what the turn led to",
        PROCESS,
        "torch.where(goes_on_N, q_N[1:], after_N[:-1])",
        "torch.where(goes_on_N, q_N[:-1], after_N[:-1])",
        T_AGENTIC,
    ),
    Mutant("best of one", PROCESS, "(1 - value.clamp(0.0, 1.0)) ** k", "(1 - value.clamp(0.0, 1.0))", T_AGENTIC),
    Mutant(
        "verpo pays easy tests more", PROCESS, "torch.exp(-alpha * pass_GJ)", "torch.exp(alpha * pass_GJ)", T_AGENTIC
    ),
    Mutant(
        "critical turns lose the task score",
        PROCESS,
        "score_N = torch.where(last_N, rewards",
        "_ = torch.where(last_N, rewards",
        T_AGENTIC,
    ),
    Mutant(
        "otc without its own case at no call",
        COSTS,
        "torch.where(fewest_M == 0, call_decay(calls_M, max_calls), above_M)",
        "above_M",
        T_COSTS,
    ),
    Mutant(
        "fewest calls of anybody", COSTS, "traj.group_M[solved_M], calls_M[solved_M]", "traj.group_M, calls_M", T_COSTS
    ),
    Mutant("fewest calls of the last step", COSTS, "min(past.get(batch.task[row], math.inf), calls)", "calls", T_COSTS),
    Mutant("mash linear over the maximum", COSTS, "calls_M / (max_calls + 1)", "calls_M / max_calls", T_COSTS),
    Mutant("forced modes pay too", COSTS, "where(free_M & (mode_M > 0) &", "where((mode_M > 0) &", T_COSTS),
    Mutant("aspo unbounded", COSTS, "bound_BT = aspo_bound * adv_BT.abs()", "bound_BT = 9 * adv_BT.abs()", T_COSTS),
    Mutant("aspo on wrong answers", COSTS, "(adv_M > 0) & (first_M >= 0)", "(first_M >= 0)", T_COSTS),
    Mutant(
        "rewards scaled in one view",
        "training/credit.py",
        "rewards.token_BT * factor_M[batch.trajectories.row_B][:, None]",
        "rewards.token_BT",
        T_COSTS,
    ),
    Mutant("information counts a pair twice", DIAG, "across += same - same_in_group", "across += same", T_DIAG),
    Mutant("alarm at every step", DIAG, "if stretch == alarm.steps:", "if stretch >= alarm.steps:", T_DIAG),
    Mutant("alarm deaf to NaN", DIAG, "        return True\n    over", "        return False\n    over", T_DIAG),
    Mutant("residual keeps cut tokens", DIAG, "if batch.truncated is not None:", "if False:", T_DIAG),
    Mutant(
        "best checkpoint is the newest",
        TRAINER,
        "key=lambda found: (found[2], found[0])",
        "key=lambda found: found[0]",
        T_DIAG,
    ),
    Mutant(
        "restore keeps what came after",
        TRAINER,
        "        if later > step:\n",
        "        if later > step + 99:\n",
        T_DIAG,
    ),
)

MUTANTS += (
    Mutant("lite ppo scales by the centred returns", GROUP, "std = R_M.std() if", "std = centred_M.std() if", T_GROUP),
    Mutant("bnpo forgets the third", GROUP, "1 + common * mean / 3)", "1 + common * mean)", T_GROUP),
    Mutant("gdpo normalises the sum only", GROUP, "(part_M - mean_M) / (std_M + 1e-4)", "(part_M - mean_M)", T_GROUP),
    Mutant("entropic baseline counts itself", GROUP, "((e.sum() - e) / (len(R) - 1))", "(e.sum() / len(R))", T_GROUP),
    Mutant("copo blends the wrong way", GROUP, "return Credit(weight_BT * local_BT + (1 - weight_BT) * global_BT)",
           "return Credit((1 - weight_BT) * local_BT + weight_BT * global_BT)", T_GROUP),
    Mutant("riskpo pays other places of the groups", GROUP, "adv_M[order.flatten()]", "adv_M[order.flip(1).flatten()]",
           T_GROUP),
    Mutant("quantiles move the wrong way", GROUP, "q + risk_lr * (level", "q - risk_lr * (level", T_GROUP),
    Mutant("dads weighs lost trajectories", GROUP, "torch.where(rewards.trajectory_M > 0.5, w_M, 1.0)",
           "torch.where(rewards.trajectory_M <= 0.5, w_M, 1.0)", T_GROUP),
    Mutant("clpo keeps dead groups", GROUP, "((accuracy_G > 0) & (accuracy_G < 1))", "(accuracy_G < 1)", T_GROUP),
    Mutant("rover looks back", REGRESSION, "0.0)), -1, dims=1)", "0.0)), 1, dims=1)", T_REGRESSION),
    Mutant("rover looks beyond the end", REGRESSION, "    ahead_ML[:, -1] = 0.0\n", "", T_REGRESSION),
    Mutant("log Z of the wrong sign", REGRESSION, "flow_U + log_z if", "flow_U - log_z if", T_REGRESSION),
    Mutant("copg without leave-one-out", REGRESSION, "size_M / (size_M - 1).clamp(min=1)", "1.0 * size_M / size_M",
           T_REGRESSION),
    Mutant("trpa pairs across groups", REGRESSION, "(group_M[:, None] == group_M[None]) & (level", "(level",
           T_REGRESSION),
    Mutant("alpha divergence swaps its exponent", REGRESSION, "-(1 - a) * (u_BT ** (1 - a) - u_BT)",
           "-(1 - a) * (u_BT**a - u_BT)", T_REGRESSION),
)  # fmt: skip

MUTANTS += (
    Mutant("darling counts the whole group", REWARDING, "(n_M - size_M) / n_M", "size_M / n_M", T_REWARDING),
    Mutant("darling mixes groups", REWARDING, "[traj.group_M.to(cluster_M.dtype), cluster_M]",
           "[0 * traj.group_M.to(cluster_M.dtype), cluster_M]", T_REWARDING),
    Mutant("fapo punishes flawed losses", REWARDING, "torch.where(won(outcome_M, correct_at), target_M, -1.0)",
           "torch.where(won(outcome_M, correct_at), target_M, target_M - 2)", T_REWARDING),
    Mutant("fapo drops the overlong penalty", REWARDING, "rewards.trajectory_M - outcome_M + target_M", "target_M",
           T_REWARDING),
    Mutant("seed_grpo sums log-probs", REWARDING, "/ packed.mask_ML.sum(1).clamp(min=1)", "", T_REWARDING),
    Mutant("seed_grpo asks the trainer", REWARDING, "if batch.logp_rollout is None else batch.logp_rollout", "",
           T_REWARDING),
    Mutant("ppo_max forgets the mean", REWARDING, "((outcome_M - mean) / std)", "(outcome_M / std)", T_REWARDING),
    Mutant("ppo_max forgets earlier rewards", REWARDING, "+ gap**2 * count * n / total", "", T_REWARDING),
    Mutant("t_ppo ends what is unfinished", REWARDING, "lam=lam, bootstrap=bootstrap", "lam=lam, bootstrap=False",
           T_REWARDING),
    Mutant("t_ppo's critic sees NaN", REWARDING, "torch.where(known_BT, update.returns_BT, 0.0)", "update.returns_BT",
           T_REWARDING),
    Mutant("hbpo counts its budget term twice", REWARDING, "torch.where(b_M > 0, intra_M, 0.0)",
           "torch.where(b_M > 0, 2 * intra_M, 0.0)", T_REWARDING),
    Mutant("hbpo has no bound", REWARDING, "/ hbpo_longest, budget_curve(b_M, hbpo_longest))",
           "/ hbpo_longest, budget_curve(0 * b_M, hbpo_longest))", T_REWARDING),
    Mutant("d3s takes the first ones", SELECTION, "for low in range(size + 1)", "for low in range(size, size + 1)",
           T_SELECTION),
    Mutant("d3s schedule runs backwards", SELECTION, "(1 - p) * first + p * last", "p * first + (1 - p) * last",
           T_SELECTION),
    Mutant("d3s ignores entropy", SELECTION, "adv_BT.abs() * entropy_BT", "adv_BT.abs()", T_SELECTION),
    Mutant("pf_ppo prefers the worst", SELECTION, "torch.unique(-outcome_M[member]", "torch.unique(outcome_M[member]",
           T_SELECTION),
    Mutant("pf_ppo breaks ties by place", SELECTION, "segment_mean(by_rank, place, len(values))[rank]",
           "by_rank[torch.argsort(torch.argsort(rank, stable=True))]", T_SELECTION),
    Mutant("mmr1 forgets diversity", SAMPLING, "vas_alpha * v + vas_beta * d", "vas_alpha * v", T_SAMPLING),
    Mutant("knapsack gives to sure tasks", SAMPLING, "if 0 < p < 1 and", "if 0 < p <= 1 and", T_SAMPLING),
    Mutant("knapsack wastes what is left", SAMPLING, "if p == 0]", "if p < 0]", T_SAMPLING),
    Mutant("sage goes up too late", SAMPLING, "accuracy <= hint_min", "accuracy < hint_min", T_SAMPLING),
    Mutant("soup the wrong way round", SAMPLING, "share * one + (1 - share) * two", "share * two + (1 - share) * one",
           T_SAMPLING),
    Mutant("one example sampled alike", SAMPLER, "() if chosen.index(index) == g else (first_group + g,)", "()",
           T_SAMPLING),
    Mutant("the record of tasks is lost", SAMPLER, 'new = {**state, "tasks": record}', "new = {**state}", T_SAMPLING),
    Mutant("hints at every level at once", SAMPLER, "texts[level]", "texts[-1]", T_SAMPLING),
    Mutant("retries are learned with their advice", RETRY, "retrier.plain[t.seed]", "retrier.guided[t.seed]", T_RETRY),
    Mutant("retries keep log-probs of another context", RETRY, 'turn.output.model_copy(update={"logprobs": None})',
           "turn.output", T_RETRY),
    Mutant("advice is not given", RETRY, 'f"{ADVICE}{plan.advice}"', '""', T_RETRY),
    Mutant("the base learns from before the pivot", RETRY, "pivots.get((t.group, t.copy_index), 0)", "0", T_RETRY),
    Mutant("lessons join the group", RETRY, '"group": group + k', '"group": t.group', T_RETRY),
    Mutant("retries begin at the start", RETRY, "Start(plan.moments[-1].snapshot", "Start(plan.moments[0].snapshot",
           T_RETRY),
    Mutant("a pivot beyond the end", AGENTIC, "0 <= pivot < len(turn_rewards)", "0 <= pivot", T_AGENTIC),
    Mutant("the rule goes to the first reward", AGENTIC, "if reward <= 0), 0)", "if reward > 0), 0)", T_AGENTIC),
    Mutant("a retry as long as its base is imitated", AGENTIC, "retry[1] < base[1]", "retry[1] <= base[1]", T_AGENTIC),
    Mutant("replay takes every slot", OFFP, "len(chosen) < slots - 1", "len(chosen) < slots", T_REPLAY),
    Mutant("old policies drawn by their groups", OFFP, "rng.choice(sorted(left))",
           "rng.choice([a for a in sorted(left) for _ in left[a]])", T_REPLAY),
    Mutant("old episodes count as fresh", REPLAY, ', "agent": REPLAY}', "}", T_REPLAY),
    Mutant("old episodes are kept a step too long", REPLAY, "if at > step - back}", "if at >= step - back}", T_REPLAY),
    Mutant("losses before RL are held on to", REPLAY, "for t in sound[index] if t.success", "for t in sound[index]",
           T_REPLAY),
    Mutant("replayed rows follow the trainer", EXTRACT, "_UNSCORED = (1, 3)", "_UNSCORED = (1, 3, 4)", T_REPLAY),
    Mutant("replayed rows take the expert's coefficient", BATCH, "OWN = (0, 2, 4)", "OWN = (0, 2)", ("test_slots.py",)),
    Mutant("reincarnation leaves the reference", "training/learner.py", "own.copy_(new)", "own.copy_(own)", T_REPLAY),
    Mutant("capo goes uphill", CURVATURE, '-state["exp_avg"][rows_NK]', 'state["exp_avg"][rows_NK]', T_CURVATURE),
    Mutant("capo's moments keep their bias", STAB, "* grad_NKH**2) / (1 - b2**t)", "* grad_NKH**2)", T_STAB),
    Mutant("capo loses the sampled token", CURVATURE, "= token_N[absent_N]", "= rows_NK[absent_N, -1]", T_CURVATURE),
    Mutant("a given mode is not in the context", "agents/agent.py", "self.ids.extend(self._given)", "pass", T_MODES),
    Mutant("instant play costs", COSTS, "(mode_M > 0)", "(mode_M >= 0)", T_COSTS),
    Mutant("no mode costs nothing", COSTS, "(mode_M < 0), 0.0", "(mode_M < 0), 1.0", T_COSTS),
)  # fmt: skip
