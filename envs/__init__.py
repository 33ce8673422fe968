"""Environments: the contract (`core`), the names (`registry`), the games. Importing this imports no engine."""

from __future__ import annotations

from .core import Snapshot, State, StopReason, TextEnv
from .errors import DeadlineExceeded, EnvError, MissingDependency, RequestError, TurnwiseError, UnknownName
from .registry import EnvSpec, env_class, make, register, spec, specs, tasks
from .task import Task
from .tools import Tool, ToolEnv, ToolError, function_tool

__all__ = [
    "DeadlineExceeded",
    "EnvError",
    "EnvSpec",
    "MissingDependency",
    "RequestError",
    "Snapshot",
    "State",
    "StopReason",
    "Task",
    "TextEnv",
    "Tool",
    "ToolEnv",
    "ToolError",
    "TurnwiseError",
    "UnknownName",
    "env_class",
    "function_tool",
    "make",
    "register",
    "spec",
    "specs",
    "tasks",
]

_HERE = __name__

register(
    "turnwise/Toy-v0",
    f"{_HERE}.toy:ToyEnv",
    summary="Rooms with signs; pure Python, known optimal policy.",
)
register(
    "turnwise/ALFWorld-v0",
    f"{_HERE}.alfworld.env:ALFWorldEnv",
    summary="Household tasks in text; our exact engine, generated small rooms and official games.",
    requires=("alfworld",),
    extra="alfworld",
)
register(
    "turnwise/TextWorld-v0",
    f"{_HERE}.textworld.env:TextWorldEnv",
    summary="Microsoft TextWorld: custom w-o-q grid, coin collector, treasure hunter, cooking, simple.",
    requires=("textworld",),
    extra="textworld",
)
register(
    "turnwise/ServiceDesk-v0",
    f"{_HERE}.servicedesk.env:ServiceDeskEnv",
    summary="Orders, refunds and bookings by tool calls, under a policy, with a scripted customer.",
)
register(
    "turnwise/TauBench-v0",
    f"{_HERE}.servicedesk.tau:TauBenchEnv",
    summary="Tasks in the format of tau-bench v1, from your own copy, with the instruction as the customer's message.",
    requires=("jsonschema",),
    extra="tools",
)
register(
    "turnwise/BFCL-v0",
    f"{_HERE}.bfcl:BFCLEnv",
    summary="Berkeley Function-Calling Leaderboard, multi-turn: 800 tasks, for evaluation only.",
    requires=("bfcl_eval", "mpmath", "jsonschema"),
    extra="tools",
    install="pip install 'turnwise[tools]' && pip install --no-deps bfcl-eval mpmath",
    evaluation_only=True,
)
register(
    "turnwise/BlocksWorld-v0",
    f"{_HERE}.blocksworld:BlocksWorldEnv",
    summary="Stack coloured blocks as asked; puzzles by their optimal number of actions, plans counted.",
)
register(
    "turnwise/Game24-v0",
    f"{_HERE}.game24:Game24Env",
    summary="Make 24 from four numbers in three exact steps; all 1,362 puzzles.",
)
register(
    "turnwise/SearchQA-v0",
    f"{_HERE}.search.env:SearchQAEnv",
    summary="Questions of one to three hops over a generated corpus, by tool calls; abstaining where nothing tells.",
)
register(
    "turnwise/ReasoningGym-v0",
    f"{_HERE}.reasoning.env:ReasoningGymEnv",
    summary="Questions of reasoning-gym's generators, one answer each, the library's score.",
    requires=("reasoning_gym",),
    extra="reasoning",
)
register(
    "turnwise/Negotiation-v0",
    f"{_HERE}.negotiation.env:NegotiationEnv",
    summary="Share items or settle a price with scripted opponents of several characters, or play both seats.",
)
register(
    "turnwise/TextArena-v0",
    f"{_HERE}.textarena.env:TextArenaEnv",
    summary="Single-player games of textarena that can be won, from FrozenLake to Sudoku.",
    requires=("textarena",),
    extra="textarena",
)
register(
    "turnwise/ThoughtGraph-v0",
    f"{_HERE}.thoughtgraph.env:ThoughtGraphEnv",
    summary="Sort, intersect and count by splitting, solving, merging and refining thoughts in a graph.",
)
register(
    "turnwise/Werewolf-v0",
    f"{_HERE}.werewolf.env:WerewolfEnv",
    summary="Werewolf for seven, one seat among scripted players of several characters, or all seats.",
)
register(
    "turnwise/ScienceWorld-v0",
    f"{_HERE}.scienceworld.env:ScienceWorldEnv",
    summary="Science experiments in text, 30 kinds, official splits; needs Java.",
    requires=("scienceworld", "py4j"),
    extra="scienceworld",
    programs=("java",),
)
register(
    "turnwise/Shop-v0",
    f"{_HERE}.shop.env:ShopEnv",
    summary="A web shop in text with WebShop's reward; generated products, WebShop's own where found.",
)
register(
    "turnwise/ShopBrowser-v0",
    f"{_HERE}.shop.browser_env:ShopBrowserEnv",
    summary="The same shop as a web site in a real Chromium.",
    requires=("playwright", "fastapi", "uvicorn", "jinja2"),
    extra="web",
    programs=("chromium|chromium-browser|google-chrome",),
)
register(
    "turnwise/MiniWoB-v0",
    f"{_HERE}.miniwob.env:MiniWoBEnv",
    summary="MiniWoB++: small web tasks in a real Chromium.",
    requires=("playwright", "miniwob"),
    extra="web",
    programs=("chromium|chromium-browser|google-chrome",),
)
register(
    "turnwise/PythonTool-v0",
    f"{_HERE}.python_tool.env:PythonToolEnv",
    summary="Questions that need a computation, with a sandboxed Python that stays between calls.",
    programs=("bwrap",),
)
register(
    "turnwise/SWE-v0",
    f"{_HERE}.swe.env:SWEEnv",
    summary="Generated repositories with bugs: read, edit, run tests in a sandbox; judged by hidden tests.",
    programs=("bwrap",),
)
register(
    "turnwise/OpenEnv-v0",
    f"{_HERE}.openenv.env:OpenEnvEnv",
    summary="Any OpenEnv server by its address (url=...), also our own (`turnwise serve`).",
    requires=("websockets",),
    extra="serve",
)
