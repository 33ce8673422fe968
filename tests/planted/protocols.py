"""Bugs in protocols: OpenEnv, the OpenAI endpoint, TRL, plug-ins."""

from __future__ import annotations

from .record import Mutant

SESSIONS, SERVER, SERVED, RPC, WIRE, ENV = (
    f"envs/openenv/{name}.py" for name in ("sessions", "server", "served", "rpc", "wire", "env")
)
TALK, CHAT, ENDPOINT, PROGRAMS = (
    f"agents/endpoint/{name}.py" for name in ("conversation", "chat", "server", "programs")
)
EXPORTS, TRL = "training/interop/exports.py", "training/interop/trl.py"
T_OPENENV, T_ENDPOINT, T_INTEROP, T_PLUGIN, T_PROGRAM = (
    (f"test_{name}.py",) for name in ("openenv", "endpoint", "interop", "plugin", "program")
)

MUTANTS = (
    Mutant(
        "a session that ended keeps its place",
        SESSIONS,
        "self.open.pop(session.id, None)",
        "self.open.get(session.id)",
        T_OPENENV,
    ),
    Mutant(
        "one session too many",
        SESSIONS,
        "if len(self.open) >= self.limit:",
        "if len(self.open) > self.limit:",
        T_OPENENV,
    ),
    Mutant(
        "a refused call of a tool looks done",
        SESSIONS,
        'error = None if info["admissible"] else',
        'error = None if info["turn"] else',
        T_OPENENV,
    ),
    Mutant(
        "a connection has no lease",
        SERVER,
        "lease.reschedule(loop.time() + sessions.lease_s)",
        "lease.reschedule(None)",
        T_OPENENV,
    ),
    Mutant("the expert is not kept back", SERVER, 'if kind == "expert" and expert:', 'if kind == "expert":', T_OPENENV),
    Mutant(
        "pages of other sites may play",
        SERVER,
        '*([headers["origin"]] if "origin" in headers else [])',
        "",
        T_OPENENV,
    ),
    Mutant("every seed draws the same task", SERVED, "seeding.np_random(seed)", "seeding.np_random(0)", T_OPENENV),
    Mutant(
        "splits that are not served are played",
        SERVED,
        "        if split not in self.splits:",
        "        if split not in self.spec.load().splits():",
        T_OPENENV,
    ),
    Mutant("a win is truncated", WIRE, "bool(stop) and StopReason(stop).is_truncated", "bool(stop)", T_OPENENV),
    Mutant(
        "calls without a session leave one behind",
        RPC,
        "            await sessions.end(session)\n\n\ndef _begin",
        "            sessions.touch(session)\n\n\ndef _begin",
        T_OPENENV,
    ),
    Mutant("any reward is a win", ENV, 'return score >= params["success_at"]', "return score > 0", T_OPENENV),
    Mutant(
        "a foreign loss goes on",
        ENV,
        "self._over and not success and not truncated",
        "False",
        T_OPENENV,
    ),
    Mutant(
        "a lease between episodes is a broken environment",
        ENV,
        'error.code != "SESSION_ERROR"',
        'error.code != ""',
        T_OPENENV,
    ),
    Mutant(
        "earlier answers are encoded again",
        TALK,
        "context = (*node.ids, *added)",
        "context = self.renderer.start(texts_of(messages, tools, self.format))",
        T_ENDPOINT,
    ),
    Mutant(
        "a cut answer gets no end",
        TALK,
        "self.renderer.go_on(rest, node.ended)",
        "self.renderer.go_on(rest, True)",
        T_ENDPOINT,
    ),
    Mutant(
        "programs are trained by the built-in agent",
        "training/collect.py",
        "if recipe.program or recipe.env.seats",
        "if recipe.env.seats",
        T_PROGRAM,
    ),
    Mutant(
        "programs are evaluated at a temperature of their own",
        "agents/endpoint/agent.py",
        "temperature=agent.temperature",
        "temperature=1.0",
        T_PROGRAM,
    ),
    Mutant(
        "a program's answers are as long as it likes",
        "agents/endpoint/agent.py",
        "max_answer=context.max_action_tokens",
        "max_answer=context.max_tokens",
        T_PROGRAM,
    ),
    Mutant("requests at the same time share a row", TALK, " and not each.busy)", ")", T_ENDPOINT),
    Mutant(
        "an edit goes on in the old row", TALK, '"restart": index == 0 and bool(found)', '"restart": False', T_ENDPOINT
    ),
    Mutant(
        "an edited answer is taken for the given one",
        CHAT,
        "return left.strip() == right.strip() if",
        "return True if",
        T_ENDPOINT,
    ),
    Mutant(
        "all choices are the same", ENDPOINT, "seed=(seed * 1_000_003 + index)", "seed=(seed * 1_000_003)", T_ENDPOINT
    ),
    Mutant(
        "the program's temperature holds",
        ENDPOINT,
        "temperature = self.temperature if self.temperature is not None else request.temperature",
        "temperature = request.temperature",
        T_ENDPOINT,
    ),
    Mutant(
        "the stop text stays in the answer",
        ENDPOINT,
        "return kept, text[: min(found)], True",
        "return kept, text, True",
        T_ENDPOINT,
    ),
    Mutant(
        "a reward counts for the answer after it",
        PROGRAMS,
        "self.steps.append((max(self._record.count - 1, 0)",
        "self.steps.append((max(self._record.count, 0)",
        T_ENDPOINT,
    ),
    Mutant(
        "a crashed program is a loss",
        PROGRAMS,
        "stop, error = StopReason.ABORTED, _told(broken)",
        "stop, error = StopReason.FAILURE, _told(broken)",
        T_ENDPOINT,
    ),
    Mutant("tinker's log-probs lag by one", EXPORTS, "logp[b, 1:length]", "logp[b, : length - 1]", T_INTEROP),
    Mutant("the mask names the environment", EXPORTS, "[int(own) for own in", "[int(not own) for own in", T_INTEROP),
    Mutant(
        "TRL rewards any progress as success", TRL, 'float(self._info["success"]) if self._outcome else', "", T_INTEROP
    ),
    Mutant(
        "TRL's engine keeps its first weights",
        TRL,
        'held["engine"].load_weights(',
        'held["version"] > 1 or held["engine"].load_weights(',
        T_INTEROP,
    ),
    Mutant(
        "a broken plug-in breaks everything",
        "envs/registry.py",
        "except Exception as error:  # another",
        "except KeyError as error:  # another",
        T_PLUGIN,
    ),
)
