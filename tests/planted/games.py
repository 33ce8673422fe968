"""Bugs in games and reasoning: graders, opponents, seats, hidden knowledge."""

from __future__ import annotations

from .record import Mutant

REASONING, THOUGHTS, NEGOTIATION, ARENA, WEREWOLF = (
    f"envs/{name}" for name in ("reasoning", "thoughtgraph", "negotiation", "textarena", "werewolf")
)
T_REASONING, T_THOUGHTS, T_NEGOTIATION, T_ARENA, T_WEREWOLF, T_SEATS, T_TABLES = (
    (f"test_{name}.py",)
    for name in ("reasoning", "thoughtgraph", "negotiation", "textarena", "werewolf", "seats", "search_tables")
)

MUTANTS = (
    Mutant(
        "answers reach eval",
        f"{REASONING}/grading.py",
        "if form is not None and not form.fullmatch(answer):",
        "if form is not None and not form.match(answer):",
        T_REASONING,
    ),
    Mutant(
        "any four numbers make 24",
        f"{REASONING}/grading.py",
        'if used != Counter(map(str, entry["metadata"]["numbers"])):',
        "if used.total() != 4:",
        T_REASONING,
    ),
    Mutant(
        "a good answer is as good as a right one",
        f"{REASONING}/env.py",
        "won = score == 1.0",
        "won = score >= 0.5",
        T_REASONING,
    ),
    Mutant(
        "rows are read from every answer",
        f"{REASONING}/grading.py",
        'if not rows or "\\n" in answer:',
        'if "\\n" in answer:',
        T_REASONING,
    ),
    Mutant(
        "cars keep the names of the configuration",
        f"{REASONING}/experts.py",
        '_Car(chr(ord("A") + i), len(cells)',
        "_Car(list(places)[i], len(cells)",
        T_REASONING,
    ),
    Mutant(
        "the level is the library's default",
        f"{REASONING}/env.py",
        "if level is None or name in names.PLAIN:",
        "if True:",
        T_REASONING,
    ),
    Mutant(
        "disorder is no error",
        f"{THOUGHTS}/kinds.py",
        "return wrong + _difference(Counter(items), Counter(solution))",
        "return _difference(Counter(items), Counter(solution))",
        T_THOUGHTS,
    ),
    Mutant(
        "an answer is graded by its own problems",
        f"{THOUGHTS}/env.py",
        'self.kind.errors(self.given, whole, self.thoughts[self._answer].content)',
        'self._errors(self.thoughts[self._answer])',
        T_THOUGHTS,
    ),
    Mutant(
        "long problems are solved at once",
        f"{THOUGHTS}/env.py",
        'if verb == "solve" and len(thoughts[0].content) > self.limit:',
        'if verb == "merge" and len(thoughts[0].content) > 99:',
        T_THOUGHTS,
    ),
    Mutant(
        "a problem is merged with itself",
        f"{THOUGHTS}/env.py",
        "if len(set(of)) < len(of):",
        "if not of:",
        T_THOUGHTS,
    ),
    Mutant(
        "waste is fair enough",
        f"{NEGOTIATION}/scenarios.py",
        "return deal in self.frontier and self.utility",
        "return self.utility",
        T_NEGOTIATION,
    ),
    Mutant(
        "the fair share is the most of Nash's solutions",
        f"{NEGOTIATION}/scenarios.py",
        "return min(self.utility(deal, seat) for deal in self.nash)",
        "return max(self.utility(deal, seat) for deal in self.nash)",
        T_NEGOTIATION,
    ),
    Mutant(
        "the sale is measured from the buyer's target",
        f"{NEGOTIATION}/scenarios.py",
        "return (price - seller) / (buyer - seller)",
        "return (price - buyer) / (seller - buyer)",
        T_NEGOTIATION,
    ),
    Mutant(
        "tit for tat gives for a first offer",
        f"{NEGOTIATION}/opponents.py",
        "max(moment.offered) - moment.offered[0]",
        "max(moment.offered)",
        T_NEGOTIATION,
    ),
    Mutant(
        "one's own offer can be accepted",
        f"{NEGOTIATION}/env.py",
        "            offer = self.table.offers[1 - seat]\n",
        "            offer = self.table.offers[1 - seat] or self.table.offers[seat]\n",
        T_NEGOTIATION,
    ),
    Mutant(
        "the first seat's values are told to both",
        f"{NEGOTIATION}/env.py",
        'f"You are {NAMES[mover]}. {scenario.private(mover)}"',
        'f"You are {NAMES[mover]}. {scenario.private(0)}"',
        T_NEGOTIATION,
    ),
    Mutant(
        "an ultimatum waits for ever",
        f"{NEGOTIATION}/env.py",
        "if patience and len(heard) >= patience:",
        "if patience and len(heard) > 99:",
        T_NEGOTIATION,
    ),
    Mutant(
        "seats share a dialogue",
        "agents/seats.py",
        'seat = int(info.get("seat", 0))',
        "seat = 0",
        T_SEATS,
    ),
    Mutant(
        "a row forgets what its seat heard before",
        "agents/seats.py",
        "before = () if answer.restart else self._heard[seat]",
        "before = ()",
        T_SEATS,
    ),
    Mutant(
        "seats are credited with the episode's end",
        "agents/seats.py",
        'last.get(f"seat_score_{seat}", 0.0)',
        "trajectory.score",
        T_SEATS,
    ),
    Mutant(
        "seats are compared with each other",
        "agents/seats.py",
        '"group": trajectory.group * seats + seat',
        '"group": trajectory.group',
        T_SEATS,
    ),
    Mutant(
        "all of the way is a win",
        f"{ARENA}/env.py",
        'won = paid >= 1.0 and not state.game_info[0]["invalid_move"]',
        "won = paid >= 1.0",
        T_ARENA,
    ),
    Mutant(
        "games share their random numbers",
        f"{ARENA}/env.py",
        "            random.setstate(self._random[0])\n",
        "            pass\n",
        T_ARENA,
    ),
    Mutant(
        "games leave their random numbers behind",
        f"{ARENA}/env.py",
        "            random.setstate(before[0])\n",
        "            pass\n",
        T_ARENA,
    ),
    Mutant(
        "refused moves are admissible",
        f"{ARENA}/env.py",
        'refused = state.error_count > 0 or state.game_info[0]["invalid_move"]',
        'refused = state.game_info[0]["invalid_move"]',
        T_ARENA,
    ),
    Mutant(
        "the village hears the werewolves",
        f"{WEREWOLF}/game.py",
        'self._tell(f"{NAMES[seat]} wants to kill {told}.", self.wolves)',
        'self._tell(f"{NAMES[seat]} wants to kill {told}.")',
        T_WEREWOLF,
    ),
    Mutant(
        "a tie votes the first one out",
        f"{WEREWOLF}/game.py",
        "if most and (len(most) == 1 or most[0][1] > most[1][1]):",
        "if most:",
        T_WEREWOLF,
    ),
    Mutant(
        "the doctor saves nobody",
        f"{WEREWOLF}/game.py",
        "dead = self.victim if self.victim != self.saved else None",
        "dead = self.victim",
        T_WEREWOLF,
    ),
    Mutant(
        "werewolves need a majority",
        f"{WEREWOLF}/game.py",
        "elif 2 * wolves >= len(self.alive)",
        "elif 2 * wolves > len(self.alive)",
        T_WEREWOLF,
    ),
    Mutant(
        "games that win themselves are tasks",
        f"{WEREWOLF}/deals.py",
        "        if is_won(drawn, None):\n            continue\n",
        "",
        T_WEREWOLF,
    ),
    Mutant(
        "two seers are believed like one",
        f"{WEREWOLF}/characters.py",
        "return 1.0 / len({speech.speaker for speech in claims})",
        "return 1.0",
        T_WEREWOLF,
    ),
    Mutant(
        "pages overlap",
        "envs/search/corpus.py",
        "rank(words, TOP, page * TOP)",
        "rank(words, TOP, page)",
        T_TABLES,
    ),
    Mutant(
        "half a table is a table",
        "envs/search/env.py",
        "return State(\"\", value, score.success, self.over and not score.success, extra=extra)",
        "return State(\"\", value, value > 0.5, self.over and not value > 0.5, extra=extra)",
        T_TABLES,
    ),
)  # fmt: skip
