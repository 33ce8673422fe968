"""The web environments beside raw Playwright on the same pages, in one run: speed of the shop, of MiniWoB++, memory.

    python benchmarks/web.py [--episodes 8] [--repeats 3] [--out benchmarks/results/web.json]

shop_text     steps/s of the text shop, expert episodes replayed
shop_browser  ms per step of `ShopBrowser-v0` against raw Playwright: its clicks by role and name and `aria_snapshot`
miniwob       ms per episode of one click: ours against raw Playwright (goto, seed, click, reward, `aria_snapshot`)
memory        MB (proportional set size) of driver and browser with one page and with three, ours against raw

Contenders take turns; ratios are medians over rounds with the smallest and the largest. Only ratios of one run mean
something: the load average is recorded.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import interleave, load_average, machine, merge_json, ratio
from playwright.sync_api import sync_playwright
from turnwise.envs import Task, make, tasks
from turnwise.envs.browser import BrowserPage
from turnwise.envs.chromium import FLAGS, program
from turnwise.envs.miniwob import names
from turnwise.envs.processes import proportional_mb
from turnwise.envs.shop import goals
from turnwise.envs.shop.site import Site

PAGE = "click-test-2"
ARGUMENTS = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]


def expert_scripts(id: str, listed: list[Task]) -> list[list[str]]:
    """The expert's actions in each task."""
    env, scripts = make(id), list[list[str]]()
    for task in listed:
        _, info = env.reset(options={"task": task})
        scripts.append([])
        while info["stop"] is None:
            scripts[-1].append(env.expert())
            *_, info = env.step(scripts[-1][-1])
    env.close()
    return scripts


def text_rate(episodes: int, repeats: int) -> dict[str, Any]:
    """Steps/s of the text shop in this process, resets included and not."""
    listed = tasks("Shop", "train", 25 * episodes)
    scripts, env = expert_scripts("Shop", listed), make("Shop")

    def play() -> tuple[float, float]:
        stepping, start = 0.0, time.perf_counter()
        for task, script in zip(listed, scripts, strict=True):
            env.reset(options={"task": task})
            began = time.perf_counter()
            for action in script:
                env.step(action)
            stepping += time.perf_counter() - began
        steps = sum(map(len, scripts))
        return steps / stepping, steps / (time.perf_counter() - start)

    rates = interleave({"ours": play}, repeats)["ours"]
    return {
        "steps_per_s": round(statistics.median(rate for rate, _ in rates)),
        "steps_per_s_with_resets": round(statistics.median(rate for _, rate in rates)),
        "steps_per_episode": round(sum(map(len, scripts)) / len(scripts), 2),
    }


def raw_shop(page: Any, task: Task, script: list[str]) -> None:
    """The text game's actions by Playwright's own clicks, with its own text of the page after each."""
    catalogue, goal = goals.load(task)
    url, _ = Site.shared().enter(catalogue, goal)
    page.goto(url)
    for action in script:
        verb, words = action.removesuffix("]").split("[", 1)
        if verb == "search":
            page.get_by_role("searchbox").fill(words)
            page.aria_snapshot()
            page.get_by_role("button", name="Search", exact=True).click()
        elif words == "Buy Now":
            page.get_by_role("button", name=words, exact=True).click()
        elif page.get_by_role("link", name=words, exact=True).count():
            page.get_by_role("link", name=words, exact=True).click()
        else:
            box = page.get_by_role("combobox").filter(has=page.locator("option", has_text=re.compile(f"^{words}$")))
            with page.expect_navigation():
                box.first.select_option(label=words)
        page.wait_for_load_state("load")
        page.aria_snapshot()
    Site.shared().leave(url)


def shop_steps(page: Any, episodes: int, repeats: int) -> dict[str, Any]:
    """ms per action, resets included, of the same episodes."""
    listed = tasks("Shop", "train", episodes)
    scripts = expert_scripts("Shop", listed)
    env = make("ShopBrowser")
    actions = sum(len(script) + 1 for script in scripts)  # a search is two actions in a browser

    def ours() -> float:
        start = time.perf_counter()
        for task in listed:
            _, info = env.reset(options={"task": task.model_copy(update={"env": env.id})})
            while info["stop"] is None:
                *_, info = env.step(env.expert())
            assert info["success"]
        return 1000 * (time.perf_counter() - start) / actions

    def raw() -> float:
        start = time.perf_counter()
        for task, script in zip(listed, scripts, strict=True):
            raw_shop(page, task, script)
        return 1000 * (time.perf_counter() - start) / actions

    found = interleave({"ours": ours, "raw": raw}, repeats)
    env.close()
    return _milliseconds(found)


def miniwob_episodes(page: Any, episodes: int, repeats: int) -> dict[str, Any]:
    """ms per episode of reset, one click and the reward."""
    env = make("MiniWoB")
    listed = [Task(env=env.id, seed=seed, params={"name": PAGE}) for seed in range(episodes)]
    begin = (
        "s => { Math.seedrandom(s); core.EPISODE_MAX_TIME = 1e9; core.startEpisodeReal(); return core.getUtterance() }"
    )

    def ours() -> float:
        start = time.perf_counter()
        for task in listed:
            env.reset(options={"task": task})
            assert env.step(env.expert())[4]["success"]
        return 1000 * (time.perf_counter() - start) / episodes

    def raw() -> float:
        start = time.perf_counter()
        for task in listed:
            page.goto(names.page_address(PAGE))
            name = page.evaluate(begin, task.seed).split()[-1].strip(".")
            page.aria_snapshot()
            page.evaluate("n => [...document.querySelectorAll('button')].find(b => b.textContent == n).click()", name)
            assert page.evaluate("WOB_RAW_REWARD_GLOBAL") == 1
            page.aria_snapshot()
        return 1000 * (time.perf_counter() - start) / episodes

    found = interleave({"ours": ours, "raw": raw}, repeats)
    env.close()
    return _milliseconds(found)


def memory() -> dict[str, Any]:
    """MB of what this process started, with one page open and with three."""
    url = names.page_address(PAGE)

    def started_mb() -> float:
        threads = Path(f"/proc/{os.getpid()}/task").glob("*/children")
        children = [int(child) for thread in threads for child in thread.read_text().split()]
        return sum(proportional_mb(child) or 0.0 for child in children)

    def ours(count: int) -> Callable[[], None]:
        pages = [BrowserPage() for _ in range(count)]
        for page in pages:
            page.open(url)
        return lambda: [page.close() for page in pages] and None

    def raw(count: int) -> Callable[[], None]:
        playwright = sync_playwright().start()
        browser = playwright.chromium.launch(executable_path=program(), args=ARGUMENTS)
        for _ in range(count):
            browser.new_context().new_page().goto(url)
        return playwright.stop

    found: dict[str, Any] = {}
    for name, begin in (("ours", ours), ("raw", raw)):
        before, sizes = started_mb(), list[float]()
        for count in (1, 3):
            end = begin(count)
            time.sleep(0.5)
            sizes.append(started_mb() - before)
            end()
        found[name] = {"one_page_mb": round(sizes[0]), "per_further_page_mb": round((sizes[1] - sizes[0]) / 2)}
    return found


def _milliseconds(found: dict[str, list[float]]) -> dict[str, Any]:
    medians = {f"{name}_ms": round(statistics.median(times), 1) for name, times in found.items()}
    return medians | {"ours_over_raw": ratio(found["ours"], found["raw"])}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "web.json")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "load_average": load_average()}
    results["shop_text"] = text_rate(options.episodes, options.repeats)
    results["memory"] = memory()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=ARGUMENTS)
        page = browser.new_context().new_page()
        results["shop_browser"] = shop_steps(page, options.episodes, options.repeats)
        results["miniwob"] = miniwob_episodes(page, options.episodes, options.repeats)
        browser.close()
    results["load_average_after"] = load_average()
    merge_json(options.out, results)


if __name__ == "__main__":
    main()
