"""Bugs in tools and environments."""

from __future__ import annotations

from .record import Mutant

CALLS, TOOLS, BFCL = "envs/tool_calls.py", "envs/tools.py", "envs/bfcl.py"
RULES, DESK, USER, SCENARIO, POLICY, DESK_ENV = (
    f"envs/servicedesk/{name}.py" for name in ("rules", "desk", "user", "scenario", "policy", "env")
)
T_CALLS, T_TOOLS, T_DESK, T_BFCL = (
    ("test_tool_calls.py",), ("test_tools.py",), ("test_servicedesk.py",), ("test_bfcl.py",),
)  # fmt: skip

SEARCH, WORLD, GRADING, ASKED = (f"envs/search/{name}.py" for name in ("env", "corpus", "grading", "questions"))
BLOCKS, T_BLOCKS, GAME24, T_GAME24 = (
    "envs/blocksworld.py",
    ("test_blocksworld.py",),
    "envs/game24.py",
    ("test_game24.py",),
)
T_SEARCH = ("test_search.py",)

REWARD, T_SHOP = "envs/shop/reward.py", ("test_shop.py",)

MUTANTS = (
    Mutant(
        "only the first tagged call is read",
        CALLS,
        "    while position >= 0:\n        position += len(_TAG)",
        "    if position >= 0:\n        position += len(_TAG)",
        T_CALLS,
    ),
    Mutant(
        "prose before bare JSON is a call",
        CALLS,
        '    elif body.startswith(("{", "[")):',
        '    elif "{" in body and "<tool_call>" not in body and not (body := body[body.index("{"):]) == "":',
        T_CALLS,
    ),
    Mutant("the last of two equal keys wins", CALLS, "if len(found) < len(pairs):", "if False:", T_CALLS),
    Mutant("arguments are not strict", TOOLS, "strict=True)", "strict=False)", T_TOOLS),
    Mutant(
        "good calls of a bad action run",
        TOOLS,
        "                return self._state(str(error), [], False, False)\n            except ToolError",
        "                continue\n            except ToolError",
        T_TOOLS,
    ),
    Mutant(
        "calls go on after the end",
        TOOLS,
        "            if self.over:\n                break",
        "            pass",
        T_TOOLS,
    ),
    Mutant("tool output keeps its markup", TOOLS, "observation=defuse(text)", "observation=(text)", T_TOOLS),
    Mutant(
        "calls that never ran are counted",
        TOOLS,
        '"tool_calls": float(len(results))',
        '"tool_calls": float(max(1, len(results)))',
        T_TOOLS,
    ),
    Mutant(
        "consent for anything is consent for all",
        RULES,
        "moment.subject not in moment.user.agreed",
        "not moment.user.agreed and moment.subject is None",
        T_DESK,
    ),
    Mutant("threshold includes its value", POLICY, "return fact > self.value", "return fact >= self.value", T_DESK),
    Mutant(
        "decisions can be made twice",
        DESK,
        '        self._not_decided(id)\n        self.db.execute("INSERT',
        '        self.db.execute("INSERT OR REPLACE',
        T_DESK,
    ),
    Mutant(
        "success without the customer's goodbye",
        DESK_ENV,
        "success = self.over and not self.violations and self.user.gone and",
        "success = not self.violations and",
        T_DESK,
    ),
    Mutant(
        "violations do not deny success", DESK_ENV, "self.over and not self.violations and", "self.over and", T_DESK
    ),
    Mutant("names are shared between splits", SCENARIO, "for l in LAST[people]", 'for l in LAST["train"]', T_DESK),
    Mutant("the user agrees without a number", USER, "and self.current.subject in message", "", T_DESK),
    Mutant(
        "gold answers need not be asked for",
        BFCL,
        'elif not response_checker(self._answers, expected, self.index)["valid"]:',
        "elif False:",
        T_BFCL,
    ),
    Mutant(
        "state is not compared",
        BFCL,
        'elif not state_checker(self.services, self._gold_services)["valid"]:',
        "elif False:",
        T_BFCL,
    ),
    Mutant("long context is not long", BFCL, 'long_context=split == "long_context"', "long_context=False", T_BFCL),
    Mutant("a fifth of the title is enough", REWARD, "title > 0.2 or", "title >= 0.2 or", T_SHOP),
    Mutant("one shared category is enough", REWARD, "shared_categories >= 2", "shared_categories >= 1", T_SHOP),
    Mutant(
        "the price is no part of the whole",
        REWARD,
        "    return r_type * (attributes + options + price) / (n_attributes + n_options + 1)",
        "    return r_type * (attributes + options + price) / max(1, n_attributes + n_options)",
        T_SHOP,
    ),
    Mutant("the limit itself is too dear", REWARD, "<= goal.limit", "< goal.limit", T_SHOP),
    Mutant("sizes may be alike", REWARD, 'if name == "size":', 'if name == "":', T_SHOP),
    Mutant(
        "options cost nothing",
        "envs/shop/catalogue.py",
        "return self.cents + sum(",
        "return self.cents + 0 * sum(",
        T_SHOP,
    ),
    Mutant(
        "splits share goals",
        "envs/shop/goals.py",
        'if split_of(f"{product.kind} {sorted(wanted)} {kept}") == split:',
        "if True:",
        T_SHOP,
    ),
    Mutant("any purchase succeeds", "envs/shop/env.py", "score, score == 1.0,", "score, bought,", T_SHOP),
    Mutant("the shop does not escape", "envs/shop/site.py", "autoescape=True", "autoescape=False", T_SHOP),
    Mutant(
        "abstaining is always right",
        SEARCH,
        "exact = self.abstained and gold is None",
        "exact = self.abstained",
        T_SEARCH,
    ),
    Mutant(
        "all the words are an exact match",
        SEARCH,
        "exact, f1 = exact_match(self.given, gold), token_f1(self.given, gold)",
        "exact, f1 = token_f1(self.given, gold) == 1.0, token_f1(self.given, gold)",
        T_SEARCH,
    ),
    Mutant(
        "titles weigh nothing in tantivy",
        "envs/search/index.py",
        "self._query.boost_query(title, TITLE_WEIGHT)",
        "title",
        T_SEARCH,
    ),
    Mutant("another index, the same tasks", SEARCH, 'params["index"] = index', "pass", T_SEARCH),
    Mutant("answers count as tool calls", SEARCH, '"counts": {"tool_calls": float(searches)},', "", T_SEARCH),
    Mutant("untold facts are told", WORLD, "            if is_told:\n", "            if value:\n", T_SEARCH),
    Mutant("worlds share names", WORLD, "_words(rng, ONSETS[split])", '_words(rng, ONSETS["train"])', T_SEARCH),
    Mutant("a capital can be anywhere", WORLD, 'if key == "capital":', 'if key == "":', T_SEARCH),
    Mutant(
        "a row is its mean cell", GRADING, "sum(map(all, cells))", "sum(sum(row) / len(row) for row in cells)", T_SEARCH
    ),
    Mutant(
        "double keys count",
        GRADING,
        "left, right = _by_key(predicted, keys), _by_key(gold, keys)",
        "left, right = _by_key(predicted, keys), _by_key(gold, keys)\n    left |= {(str(i),): {} for i in "
        "range(len(predicted) - len(left))}",
        T_SEARCH,
    ),
    Mutant("the chain may come round", ASKED, "if value is None or value in chain:", "if value is None:", T_SEARCH),
    Mutant(
        "a block with another on it can be taken",
        BLOCKS,
        "for block, below in enumerate(blocks) if block not in covered",
        "for block, below in enumerate(blocks)",
        T_BLOCKS,
    ),
    Mutant("plans are counted once per state", BLOCKS, "following.get(after, 0) + ways[each]", "1", T_BLOCKS),
    Mutant(
        "one condition is enough",
        BLOCKS,
        "return all(blocks[block] == below",
        "return any(blocks[block] == below",
        T_BLOCKS,
    ),
    Mutant(
        "splits share puzzles of blocks",
        BLOCKS,
        'if not goal or split_of(f"{start} {sorted(goal)}") != split:',
        "if not goal:",
        T_BLOCKS,
    ),
    Mutant(
        "conditions met at first earn points",
        BLOCKS,
        "        self._met = self._count()\n",
        "        self._met = 0\n",
        T_BLOCKS,
    ),
    Mutant("a wrong result is taken", GAME24, "        if merge.value != said:", "        if False:", T_GAME24),
    Mutant("24 with numbers left wins", GAME24, "self.numbers == (TARGET,)", "TARGET in self.numbers", T_GAME24),
    Mutant("a number can be used twice", GAME24, "    left.remove(merge.right)\n", "", T_GAME24),
    Mutant(
        "arithmetic is not exact",
        GAME24,
        'return left * right if operator == "*" else left / right',
        'return left * right if operator == "*" else Fraction(round(float(left / right), 4))',
        T_GAME24,
    ),
    Mutant(
        "formulas differ by order", GAME24, "(b - a, (y - x) % _PRIME)}", "(b - a, (y - 2 * x) % _PRIME)}", T_GAME24
    ),
)
