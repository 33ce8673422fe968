"""Environments in a real Chromium: pages as text, actions, the shop beside its text game, faults."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from turnwise.agents.agent import ScriptedAgent
from turnwise.agents.rollout import Episode, rollout
from turnwise.envs import EnvError, RequestError, chromium, env_class, make, register, spec, tasks
from turnwise.envs.browser import BrowserPage
from turnwise.envs.check import check_env
from turnwise.envs.core import StopReason
from turnwise.envs.pool import EnvPool
from turnwise.training import doctor

MISSING = [name for name in ("playwright", "fastapi", "uvicorn", "miniwob") if importlib.util.find_spec(name) is None]
needs_browser = pytest.mark.skipif(
    bool(MISSING) or not chromium.program(),
    reason=f"needs {', '.join(MISSING) or 'a Chromium'}: see `turnwise doctor`",
)
PAGE = """<!doctype html><title>Test</title>
<h1>Order <b>here</b></h1><p>Two <i>words</i></p>
<label>Name <input id="name" value="Ada"></label><label><input type="checkbox" checked>Gift</label>
<select aria-label="size"><option>small</option><option selected>large</option></select>
<button disabled>Pay</button><button onclick="document.querySelector('#said').textContent = 'paid'">Free</button>
<div id="said" class="note">nothing</div><div style="display: none">hidden</div>
<table><tr><td>Color</td><td>red</td></tr></table>
<input type="date" aria-label="day"><textarea aria-label="notes"></textarea>
<div onclick="this.textContent += '!'" onmouseover="document.querySelector('#said').textContent = 'over'">Ring</div>
<div tabindex="0" class="knob"></div>
<svg width="40" height="20"><g><circle cx="9" cy="9" r="5" fill="red"/></g><text x="20" y="9">T</text></svg>
<textarea aria-label="terms" disabled rows="2" cols="2" onscroll="document.querySelector('#said').textContent =
  scrollTop ? 'below' : 'above'">1 2 3 4 5 6 7 8 9</textarea>
<script>addEventListener('keyup', e => { document.querySelector('#said').textContent = e.key })</script>"""
SHOWN = """Order here
Two words
Name
[1] textbox "Name" value="Ada"
[2] checkbox "Gift" (checked)
[3] combobox "size" value="large" options: "small" | "large"
[4] button "Pay" (disabled)
[5] button "Free"
nothing
Color | red
[6] Date "day"
[7] textbox "notes" (multiline)
[8] clickable "Ring"
[9] clickable .knob
[10] circle fill=red cx=9 cy=9 r=5
[11] text x=20 y=9 "T"
[12] textbox "terms" value="1 2 3 4 5 6 7 8 9" (disabled, multiline)"""


@pytest.fixture(scope="module")
def page() -> Iterator[BrowserPage]:
    page = BrowserPage()
    yield page
    page.close()


@pytest.fixture
def opened(page: BrowserPage, tmp_path: Path) -> BrowserPage:
    (tmp_path / "page.html").write_text(PAGE)
    page.open((tmp_path / "page.html").as_uri())
    return page


# ---- pages and actions ------------------------------------------------------------------------------------------


@needs_browser
def test_a_page_as_text(opened: BrowserPage) -> None:
    assert opened.read().text == SHOWN


@needs_browser
@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("type[1][Grace  Hopper]", '[1] textbox "Name" value="Grace Hopper" (focused)'),
        ("type[1][]", '[1] textbox "Name" (focused)'),
        ("CLICK [2]", '[2] checkbox "Gift" (focused)'),
        ("select[3][ SMALL ]", '[3] combobox "size" value="small" options'),
        ("click[5]", "\npaid\n"),
        ("type[6][2015-01-05]", '[6] Date "day" value="2015-01-05"'),
        ("type[7][<b>[x]</b>]", 'value="<b>[x]</b>"'),
        ("click[8]", '[8] clickable "Ring!"'),
        ("hover[8]", "\nover\n"),
        ("press[9][a]", "[9] clickable .knob (focused)"),
        ("scroll[12][ Bottom ]", "\nbelow\n"),
        ("press[7][Enter]", "\nEnter\n"),
        ("press[a]", "\na\n"),
    ],
)
def test_an_action_does_what_it_says(opened: BrowserPage, action: str, expected: str) -> None:
    assert opened.act(" ".join(action.split()), opened.read()) == ""
    assert expected in opened.read().text


@needs_browser
@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("click", "no action here"),
        ("click[0]", r"no element \[0\]"),
        ("click[13]", r"no element \[13\]"),
        ("hover[8][x]", "Write click"),
        ("scroll[12]", "Write click"),
        ("scroll[12][sideways]", "Expected up, down, top or bottom, got 'sideways'"),
        ("click[12]", "disabled or gone"),
        ("click[٣]", r"no element"),
        ("click[5][x]", "Write click"),
        ("type[1]", "Write click"),
        ("type[2][x]", "checkbox, which takes no text"),
        ("type[3][small]", "combobox, which takes no text"),
        ("type[6][soon]", "no value for a field of type date"),
        ("select[5][x]", "no options to select"),
        ("select[3][medium]", "no option 'medium'"),
        ("click[4]", "disabled or gone"),
        ("drag[8]", "drag takes two to 64 stops"),
        ("drag[8][10,10]" + "[10,10]" * 63, "drag takes two to 64 stops"),
        ("drag[8][13]", r"no element \[13\]"),
        ("drag[8][-1,5]", r"no element \[-1,5\]"),
        ("drag[10,10][800,10]", "outside of the window of 800x600"),
        ("hover[10,600]", "outside of the window"),
        ("click[10,10][20,20]", "click and hover one"),
        ("press[F5]", "no key 'F5'"),
        ("press[1][Alt+F4]", "no key"),
        ("goto[http://example.com]", "no action here"),
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(opened: BrowserPage, action: str, message: str) -> None:
    before = opened.read()
    assert re.search(message, opened.act(action, before))
    assert opened.read().text.replace(" (focused)", "") == before.text


POINTED = """<!doctype html><title>Test</title><style>body { margin: 0 } div { position: absolute }</style>
<div style="left: 10px; top: 20px; width: 30px; height: 40px; background: rgb(1, 2, 3)" class="dark"></div>
<div style="left: 50px; top: 20px; width: 20px; height: 20px; border: 2px solid"></div>
<div style="left: 90px; top: 20px; width: 20px; height: 20px">bare</div>
<div style="left: 130px; top: 20px; width: 20px; height: 20px"></div>
<canvas style="position: absolute; left: 200px; top: 100px" width="50" height="60"></canvas>
<svg style="position: absolute; left: 300px; top: 100px" width="50" height="60">
  <circle cx="20" cy="20" r="10" stroke="" transform="translate(5, 7)"/></svg>
<div style="left: 10px; top: 200px; width: 80px; height: 60px" onclick="0"><p>one</p><p>two</p></div>
<script>
  window.told = [];
  const tell = e => told.push(`${e.type} ${e.clientX},${e.clientY} ${e.buttons} ${Date.now()}`);
  for (const name of ['mousedown', 'mousemove', 'mouseup', 'click']) addEventListener(name, tell);
</script>"""


@pytest.fixture
def pointed(tmp_path: Path) -> Iterator[BrowserPage]:
    (tmp_path / "pointed.html").write_text(POINTED)
    page = BrowserPage(virtual_clock=True)
    page.open((tmp_path / "pointed.html").as_uri(), tick_ms=400)
    yield page
    page.close()


@needs_browser
def test_a_page_as_text_with_places(pointed: BrowserPage) -> None:
    shown = pointed.read(places=True)
    fonts = re.compile(r" at \d+,\d+ size \d+x\d+$")  # the place of a text hangs on the machine's fonts
    assert [line if line[0] == "[" else fonts.sub("", line) for line in shown.text.splitlines()] == [
        "bare",
        "[1] circle cx=20 cy=20 r=10 at 325,127 size 20x20",
        "[2] clickable at 50,230 size 80x60",
        "one",
        "two",
        "[3] box .dark background=rgb(1,2,3) at 25,40 size 30x40",
        "[4] box at 62,32 size 24x24",
        "[5] box canvas at 225,130 size 50x60",
        "[6] box svg at 325,130 size 50x60",
    ]
    assert all(fonts.search(line) for line in shown.text.splitlines())
    assert shown.elements[1].box == (10, 200, 80, 60)
    assert pointed.read().text.splitlines() == ["bare", "[1] circle cx=20 cy=20 r=10", '[2] clickable "one two"']


@needs_browser
def test_a_drag_takes_its_time_from_stop_to_stop(pointed: BrowserPage) -> None:
    shown = pointed.read(places=True)
    pointed.evaluate("() => { told.length = 0 }")
    assert pointed.act("Drag [3] [100,80] [100,160.5]", shown) == ""
    told = [each.split() for each in pointed.evaluate("told")]
    places, held, times = ([each[at] for each in told] for at in (1, 2, 3))
    assert (places[0], places[-1]) == ("25,40", "100,160")
    assert "62,60" in places and "100,80" in places and "100,120" in places  # half way and at each stop
    down, up = ([each[0] for each in told].index(what) for what in ("mousedown", "mouseup"))
    assert set(held[:down]) == {"0"} and set(held[down:up]) == {"1"} and held[up] == "0"
    assert (times[0], times[down], times[up]) == ("0", "100", "300")  # 400 ms: to the start, two ways, afterwards
    assert pointed.evaluate("Date.now()") == 400
    pointed.evaluate("() => { document.querySelector('.dark').hidden = true; told.length = 0 }")
    assert pointed.act("drag[10,10][3]", shown) == "Element [3] is gone or not seen." and not pointed.evaluate("told")


@needs_browser
def test_clicks_and_moves_to_places(pointed: BrowserPage) -> None:
    shown = pointed.read(places=True)
    pointed.evaluate("() => { told.length = 0 }")
    assert pointed.act("click[33,44]", shown) == "" == pointed.act("hover[ 55 , 66 ]", shown)
    told = [" ".join(each.split()[:3]) for each in pointed.evaluate("told")]
    assert "click 33,44 0" in told and told[-1] == "mousemove 55,66 0"


@needs_browser
def test_an_icon_that_changes_below_the_mouse_is_hit(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        "<!doctype html><style>#icon { content: url(plain.svg) } #icon:hover { content: url(hover.svg) }</style>"
        "<div><span id=icon onmousedown='this.title = 1'></span></div>"
    )
    for name in ("plain", "hover"):
        picture = "<svg xmlns='http://www.w3.org/2000/svg' width='16' height='16'>" + "<g/>" * 100_000 + "</svg>"
        (tmp_path / f"{name}.svg").write_text(picture)
    page = BrowserPage(virtual_clock=True)
    page.open((tmp_path / "page.html").as_uri())
    box = page.evaluate("() => { const b = icon.getBoundingClientRect(); return [b.x + 8, b.y + 8] }")
    page.act("click[{:.0f},{:.0f}]".format(*box), page.read())
    assert page.evaluate("icon.title") == "1"
    page.close()


@needs_browser
def test_a_covered_element_is_clicked_all_the_same(page: BrowserPage, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        "<button onclick=\"document.body.append('under')\">A</button>"
        "<div style='position:fixed;inset:0' onclick=\"document.body.append('over')\"></div>"
    )
    page.open((tmp_path / "a.html").as_uri())
    shown = page.read()
    assert page.act(f"click[{shown.find('button', 'A').number}]", shown) == ""
    assert page.evaluate("document.body.textContent").strip().endswith("under")


class Slowly(BaseHTTPRequestHandler):
    """A page whose end comes later than its beginning."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Slow</title><p>Beginning</p>" + b" " * 4096)
        self.wfile.flush()
        time.sleep(0.3)
        self.wfile.write(b"<p>End</p>")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@needs_browser
@pytest.mark.parametrize("virtual_clock", [False, True])
def test_a_page_that_is_not_whole_is_waited_for(virtual_clock: bool) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slowly)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = BrowserPage(virtual_clock=virtual_clock)
    page.open("about:blank")
    page._guard(lambda: page.page.goto(f"http://127.0.0.1:{server.server_port}/", wait_until="commit"))
    page._guard(lambda: page._settle(500))
    assert page.read().text == "Beginning\nEnd"
    page.close()
    server.shutdown()


@needs_browser
def test_nothing_is_left_of_the_episode_before() -> None:
    site = pytest.importorskip("turnwise.envs.shop.site").Site.shared()
    env = make("ShopBrowser")
    task = tasks("ShopBrowser", "train", 1)[0]
    env.reset(options={"task": task})
    run = env._browser.evaluate  # type: ignore[attr-defined]
    dirt = """async () => {
        document.cookie = 'a=1'; localStorage.a = 1; sessionStorage.a = 1; window.name = 'a'; window.mark = 1;
        await new Promise(done => { indexedDB.open('a').onsuccess = e => { e.target.result.close(); done() } });
        history.pushState({}, '', '#a');
    }"""
    left = """async () => [document.cookie, localStorage.length, sessionStorage.length, window.name, window.mark,
        (await indexedDB.databases()).length, history.length]"""
    run(dirt)
    assert run(left) == ["a=1", 1, 1, "a", 1, 1, 3]
    browser_page = env._browser  # type: ignore[attr-defined]
    browser_page._guard(browser_page._context.new_page)
    env.step(env.expert())
    env.reset(options={"task": task})
    assert run(left) == ["", 0, 0, "", None, 0, 2]  # the page cleaned, then the first page of this episode
    assert browser_page._guard(lambda: len(browser_page._context.pages)) == 1 and len(site.visits) == 1
    env.close()
    assert not site.visits


@needs_browser
def test_pages_cannot_reach_beyond_this_machine(opened: BrowserPage) -> None:
    script = "url => fetch(url, {mode: 'no-cors'}).then(() => 'reached', error => String(error))"
    assert "Failed to fetch" in opened.evaluate(script, "http://example.com/")


# ---- the shop ---------------------------------------------------------------------------------------------------


def in_browser(env: Any, command: str) -> list[str]:
    """What a text command is called in the browser, one or two actions."""
    shown, verb, words = env._shown, *command.removesuffix("]").split("[", 1)
    if verb == "search":
        return [f"type[{shown.find('searchbox').number}][{words}]", f"click[{shown.find('button', 'Search').number}]"]
    link = env._page().clickable[words.lower()]
    if link.option:
        return [f"select[{shown.find('combobox', link.option).number}][{link.label}]"]
    return [f"click[{shown.find('button' if words == 'Buy Now' else 'link', link.label).number}]"]


def compare(count: int, split: str) -> list[float]:
    """Play the same random clicks, then the expert's, in text and in the browser; the rewards of both games."""
    one, other, rewards = make("Shop"), make("ShopBrowser"), []
    for task in tasks("Shop", split, count, max_turns=80):
        rng = random.Random(task.seed)
        _, info = one.reset(options={"task": task})
        other.reset(options={"task": task.model_copy(update={"env": other.id})})
        told = info
        for turn in range(80):
            command = rng.choice(info["commands"]) if turn < 3 or rng.random() < 0.15 else one.expert()
            for action in in_browser(other, command):
                *_, told = other.step(action)
                assert told["admissible"], action
            observation, *_, info = one.step(command)
            assert other._page().view == one._page.view or info["stop"]  # type: ignore[attr-defined]
            assert (told["score"], told["success"]) == (info["score"], info["success"])
            said = other.state.observation
            for line in observation.splitlines():
                assert line.startswith(("[", "colour:", "size:")) or line in said, line
            if info["stop"]:
                break
        assert info["stop"] == told["stop"]
        rewards.append(info["score"])
    other.close()
    return rewards


@needs_browser
def test_text_and_browser_give_equal_rewards_on_fifty_tasks() -> None:
    rewards = compare(50, "test")
    assert 1.0 in rewards and any(0.0 < reward < 1.0 for reward in rewards)  # won and lost


@needs_browser
def test_a_whole_episode_in_the_browser() -> None:
    env = make("ShopBrowser")
    observation, info = env.reset(options={"task": tasks("ShopBrowser", "test", 1)[0]})
    assert observation.splitlines()[:3] == [
        f"Instruction: {env.goal}",
        "Search our shop.",
        '[1] searchbox "Search words"',
    ]
    verbs = []
    while info["stop"] is None:
        verbs.append(env.expert().split("[")[0])
        observation, reward, terminated, _, info = env.step(env.expert())
    assert info["success"] and terminated and reward == 1.0 and "Thank you" in observation
    assert {"type", "click", "select"} == set(verbs)
    env.close()


@needs_browser
def test_texts_of_products_and_visitors_run_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from turnwise.envs.shop import goals
    from turnwise.envs.shop.catalogue import Catalogue

    task = tasks("ShopBrowser", "train", 1)[0]
    _, goal = goals.load(task)
    evil = '<img src=x onerror="window.owned = 1"><script>window.owned = 1</script>'
    product = goal.product._replace(title=f"{evil} {goal.product.title}", features=(evil, *goal.product.features))
    monkeypatch.setattr(goals, "load", lambda task: (Catalogue([product]), goal._replace(text=f"{goal.text} {evil}")))
    env = make("ShopBrowser")
    observation, info = env.reset(options={"task": task})
    assert evil in observation
    env.step(f"type[1][{evil}]")
    seen = env.step("click[2]")[0]
    assert f'results for "{evil}"' in seen
    env.step("click[1]")
    while info["stop"] is None:
        observation, *_, info = env.step(env.expert())
        assert env._browser.evaluate("window.owned") is None  # type: ignore[attr-defined]
        seen += observation
    assert info["success"] and seen.count("<script>window.owned = 1</script>") > 4
    env.close()


# ---- processes and faults -----------------------------------------------------------------------------------------


def descendants(pid: int) -> set[int]:
    """Processes that `pid` started, and theirs."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found = {pid}
    for _ in range(10):
        found |= {child for child, parent in parents.items() if parent in found}
    return found - {pid}


def all_end(pids: set[int], within_s: float = 20.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        alive = {pid for pid in pids if Path(f"/proc/{pid}/stat").exists()
                 and Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"}  # fmt: skip
        if not alive:
            return True
        time.sleep(0.1)
    return False


@needs_browser
def test_a_hanging_page_ends_as_env_error_and_leaves_no_process() -> None:
    register("tests/HangingShop-v0", "web_envs:HangingShop")
    hanging = env_class("tests/HangingShop-v0").tasks("train", 1)[0]

    async def main() -> None:
        pool = EnvPool(workers=1, deadline_s=8.0)
        try:
            async with pool.lease(tasks("ShopBrowser", "train", 1)[0]) as env:
                await env.reset()
                assert env.pid
                processes = descendants(env.pid)
            assert len(processes) >= 3  # a driver and a browser with its page
            (played,) = await rollout(ScriptedAgent("expert"), [Episode(hanging, seed=0)], pool)
            assert played.stop is StopReason.ENV_ERROR and "within 8 s" in str(played.error)
            assert all_end(processes)
            (played,) = await rollout(
                ScriptedAgent("expert"), [Episode(tasks("ShopBrowser", "train", 1)[0], seed=0)], pool
            )
            assert played.stop is StopReason.SUCCESS
        finally:
            await pool.aclose()

    asyncio.run(main())


@needs_browser
def test_a_browser_that_dies_costs_its_episode_only() -> None:
    env = make("ShopBrowser")
    task = tasks("ShopBrowser", "train", 1)[0]
    env.reset(options={"task": task})
    for pid in descendants(os.getpid()):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"--remote-debugging-pipe" in command:
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(EnvError, match="browser failed"):
        for _ in range(3):
            env.step("click[1]")
    _, info = env.reset(options={"task": task})
    while info["stop"] is None:
        *_, info = env.step(env.expert())
    assert info["success"]
    env.close()


def test_the_kit_takes_tasks_without_a_known_expert() -> None:
    pytest.importorskip("fastapi")
    register("tests/HalfKnown-v0", "web_envs:HalfKnown")
    report = check_env("tests/HalfKnown-v0", tasks_per_split=2)
    assert report.ok, [check for check in report.checks if not check.ok]


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("id", ["ShopBrowser", "MiniWoB"])
def test_the_kit_in_the_browser(id: str) -> None:
    report = check_env(id, tasks_per_split=1)
    failed = [check for check in report.checks if not check.ok]
    assert not failed


def test_a_missing_browser_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNWISE_CHROMIUM", "/nonexistent/chromium")
    assert not chromium.program()
    for id in ("ShopBrowser", "MiniWoB"):
        if not spec(id).missing():
            assert spec(id).reason() == "needs the program chromium: see `turnwise doctor`"
            with pytest.raises(RequestError, match="needs the program chromium"):
                make(id)
    (finding,) = [each for each in doctor._browser() if each.part == "Chromium"]
    assert finding.level == "missing" and chromium.CURE in finding.cure
    if not MISSING:
        monkeypatch.setattr(chromium.Chromium, "_running", None)
        with pytest.raises(RequestError, match="Expected a Chromium, found none"):
            BrowserPage().open("about:blank")
