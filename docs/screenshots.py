"""Photographs every page of the viewer: python docs/screenshots.py [DIR] [OUT].

DIR holds at least two runs (default: `runs`), OUT takes PNG files (default: `runs/screenshots`). Needs Chromium.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from turnwise.envs.chromium import program

WAIT_MS = 800
"""For charts to be drawn."""


def main(runs: Path, out: Path) -> int:
    """Serve `runs`, photograph each page light and dark; returns the exit code."""
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "turnwise.training.cli", "view", str(runs), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as driver:
        try:
            assert server.stdout
            text = "".join(iter(lambda: server.stdout.readline(), "}\n")) + "}"
            browser = driver.chromium.launch(executable_path=program(), args=["--no-sandbox"])
            for scheme in ("light", "dark"):
                photograph(browser, json.loads(text)["url"], out, scheme)
        finally:
            server.terminate()
    return 0


def photograph(browser: Browser, url: str, out: Path, scheme: str) -> None:
    """Every page in one colour scheme."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(url)

    def shot(name: str) -> None:
        page.wait_for_timeout(WAIT_MS)
        page.screenshot(path=out / f"{name}-{scheme}.png", full_page=name != "help")

    shot("runs")
    runs = [box.get_attribute("value") or "" for box in page.locator("input[name=run]").all()]
    page.locator("td a", has_text=runs[0]).first.click()
    shot("run")
    page.get_by_role("link", name="episodes").click()
    shot("episodes")
    if page.locator("select[name=phase] option", has_text="train").count():
        page.select_option("select[name=phase]", "train")
        page.get_by_role("button", name="Filter").click()
    page.locator("tr.row a").first.click()
    page.keyboard.press("n")
    shot("episode")
    for by in ("entropy", "advantage", "coefficient"):
        if (button := page.locator(f"button[data-shade={by}]")).count():
            button.click()
            shot(f"episode-{by}")
    page.get_by_role("link", name="group").click()
    shot("group")
    page.get_by_role("link", name="as a tree").click()
    shot("tree")
    page.keyboard.press("?")
    shot("help")
    if len(runs) > 1:
        page.goto(url)
        for name in runs[:2]:
            page.get_by_label(f"compare {name}", exact=True).check()
        page.get_by_role("button", name="Compare two").click()
        shot("compare")
    page.goto(url)
    if (kin := page.get_by_role("link", name="seeds")).count():
        kin.first.click()
        shot("seeds")
    page.close()


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:3]]
    sys.exit(main(*given, *[Path("runs"), Path("runs/screenshots")][len(given) :]))
