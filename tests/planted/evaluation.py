"""Bugs in what says how sure a number is."""

from __future__ import annotations

from .record import Mutant

INTERVALS, REPEATED, POWER, VERIFIER, PROCESS, DRIFT, GATE, ARENA, STORE, EPISODES = (
    f"training/evaluation/{name}.py"
    for name in (
        "intervals", "repeated", "power", "verifier", "process", "drift", "gate", "arena", "store", "episodes",
    )
)  # fmt: skip
T_INTERVALS, T_REPEATED, T_PROCESS = ("test_intervals.py",), ("test_repeated.py",), ("test_process.py",)
T_GATE, T_ARENA, T_EVALUATION = ("test_gate.py",), ("test_arena.py",), ("test_evaluation.py",)

SHADES, TREE, PARTS, RUN, LEARNER = (
    "training/shades.py", "training/viewer/tree.py", "training/viewer/parts.py", "training/run.py",
    "training/learner.py",
)  # fmt: skip
T_SHADES, T_VIEWER = ("test_shades.py",), ("test_viewer.py",)

RESCORE, JUDGE, ENDPOINT, CONTEXT = (
    "training/evaluation/rescore.py", "training/evaluation/judge.py", "agents/chat.py", "agents/context.py",
)  # fmt: skip
T_TARGETS, T_CONTEXT = ("test_targets.py",), ("test_context.py",)

MUTANTS = (
    Mutant("a forged record is believed", RESCORE, '{"success": again.success,', '{"success": t.success,', T_TARGETS),
    Mutant("a broken episode is graded", RESCORE, "t if t.stop.is_error else _graded", "_graded", T_TARGETS),
    Mutant("kappa without chance", JUDGE, "(alike - chance) / (1 - chance)", "alike", T_TARGETS),
    Mutant("a judge that says both is heard", JUDGE, "!= said:", "!= (not said):", T_TARGETS),
    Mutant("an episode closes its own quotes", JUDGE, 'text.replace("</episode", "< /episode")', "text", T_TARGETS),
    Mutant("a cut answer is an action", ENDPOINT, 'if whole else ""', 'if True else ""', T_TARGETS),
    Mutant("an endpoint is asked at any pace", ENDPOINT, "await asyncio.sleep(begin - now)", "pass", T_TARGETS),
    Mutant("numbers count from zero", CONTEXT, "commands[number - 1]", "commands[number - 2]", T_CONTEXT),
    Mutant("power forgets the runs", POWER, "float(means.var(ddof=1)) - within / runs)",
           "float(means.var(ddof=1)))", T_REPEATED),
    Mutant("shades of environment tokens too", SHADES, "if masks[row][position]:", "if True:", T_SHADES),
    Mutant("shades of the first recorded episode", SHADES, "place.get(id(t), -1)", "place.get(id(recorded[0]), -1)",
           T_SHADES),
    Mutant("the last pass is kept", LEARNER, "torch.where(coef_BT[rows].isnan(), done.coef_BT, coef_BT[rows])",
           "done.coef_BT", T_SHADES),
    Mutant("shades of dropped steps stay", RUN, '("played", "tokens", "shades")', '("played", "tokens")', T_SHADES),
    Mutant("an action that was not read counts as refused", RUN, "INADMISSIBLE if u.valid else INVALID",
           "INADMISSIBLE", T_VIEWER),
    Mutant("a run of another version is read", RUN, "if found != FORMAT:", "if found > FORMAT:", T_VIEWER),
    Mutant("other commands are as before", CONTEXT, "and commands is not None and commands == before:",
           "and commands is not None:", T_CONTEXT),
    Mutant("one seed is a mean", "training/viewer/seeds.py", "if len(values) > 1]", "if len(values) > 0]", T_VIEWER),
    Mutant("other recipes are other seeds", "training/viewer/seeds.py", 'if key != "seed"}', 'if key == "name"}',
           T_VIEWER),
    Mutant("a tree does not part ways", TREE, "len({b.actions[alike] for b in branches}) == 1", "True", T_VIEWER),
    Mutant("rewards of another turn", PARTS, "name: each[i] for", "name: each[i - 1] for", T_VIEWER),
    Mutant("trials count as tasks", INTERVALS, "trials == tasks or mean", "trials >= tasks or mean", T_INTERVALS),
    Mutant("every trial counts", INTERVALS, "max(effective, tasks)", "max(effective, trials)", T_INTERVALS),
    Mutant("variance of a task for that of the mean", INTERVALS, "means.var(ddof=1)) / tasks", "means.var(ddof=1))",
           T_INTERVALS),
    Mutant("the second tail is forgotten", INTERVALS, "min(1.0, 2.0 * float(", "min(1.0, 1.0 * float(", T_INTERVALS),
    Mutant("one-sided test leaves out its own count", INTERVALS, "binom.sf(better - 1", "binom.sf(better", T_INTERVALS),
    Mutant("differences are not paired", INTERVALS, "np.mean(b) - np.mean(a) for", "np.mean(b) for", T_INTERVALS),
    Mutant("pass@k with replacement", REPEATED, "1.0 - comb(runs - successes, k) / comb(runs, k)",
           "1.0 - ((runs - successes) / runs) ** k", T_REPEATED),
    Mutant("pass^k with replacement", REPEATED, "comb(successes, k) / comb(runs, k)", "(successes / runs) ** k",
           T_REPEATED),
    Mutant("biased variance within tasks", REPEATED, "p * (1 - p) * runs / (runs - 1)", "p * (1 - p)", T_REPEATED),
    Mutant("variance of one system", POWER, "** 2 * 2 * deviation**2", "** 2 * deviation**2", T_REPEATED),
    Mutant("runs do not average", POWER, "2 * within / (tasks * runs)", "2 * within / tasks", T_REPEATED),
    Mutant("posterior survival", VERIFIER, "a = attempt(rate, completeness, soundness)\n        payoff",
           "a = attempt(sum(rates) / 2, completeness, soundness)\n        payoff", T_REPEATED),
    Mutant("a wrong answer costs nothing", VERIFIER, "a.accepted_right + wrong * a.accepted_wrong", "a.accepted_right",
           T_REPEATED),
    Mutant("broken episodes count", PROCESS, "if not t.stop.is_error and t.turns", "if t.turns", T_PROCESS),
    Mutant("divergence by the longer run", PROCESS, "shorter = min(len(a), len(b))", "shorter = max(len(a), len(b))",
           T_PROCESS),
    Mutant("slope by games won", PROCESS, "np.polyfit(np.arange(len(outcomes)), np.asarray(outcomes, float), 1)[0]",
           "np.mean(outcomes)", T_PROCESS),
    Mutant("drift the other way round", DRIFT, "np.exp(policy) * (policy - reference)",
           "np.exp(reference) * (reference - policy)", T_PROCESS),
    Mutant("a reminder raises drift", DRIFT, "-float(shift)", "float(shift)", T_PROCESS),
    Mutant("regressions by all tasks", GATE, "len(f.p2f) / passed if passed",
           "len(f.p2f) / (passed + failed) if passed", T_GATE),
    Mutant("gains pay for regressions", GATE, "if regression > rule.max_regression:",
           "if regression > rule.max_regression + fixes:", T_GATE),
    Mutant("a tie passes", GATE, "None if 2 * wins == len(trials)", "None if not trials", T_GATE),
    Mutant("ties are wins", ARENA, "np.stack([first, 1 - first - second, second], axis=-1)",
           "np.stack([1 - second, 0 * first, second], axis=-1)", T_ARENA),
    Mutant("a match is read backwards", ARENA, "1 - match.outcome", "1 + match.outcome", T_ARENA),
    Mutant("what is on the disk is played again", EPISODES, "not in finished]", "not in {}]", T_EVALUATION),
    Mutant("a kill loses what was flushed", STORE, "list(run.trajectories(0, PHASE))", "[]", T_EVALUATION),
)  # fmt: skip
