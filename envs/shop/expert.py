"""A shopper that wins: it reads the instruction and the pages, and does not know which product was meant."""

from __future__ import annotations

from .catalogue import keywords
from .pages import BACK, BUY, NEXT, PREVIOUS, Link, Page
from .reward import Goal, has_option, title_score

FEATURES = "Features"


class Shopper:
    """Searches, opens what may fit, reads its features where the title does not tell, chooses options, buys.

    What pages have shown is remembered, so it goes on from any state of the game. `only` restricts it to one product,
    for catalogues whose texts do not tell what the reward looks for.
    """

    def __init__(self, goal: Goal, only: str = "") -> None:
        self._goal, self._only = goal, only
        self._read: dict[str, str] = {}
        self._rejected: frozenset[str] = frozenset()
        self._exhausted: frozenset[str] = frozenset()

    def copy(self) -> Shopper:
        """One that goes on from here on its own."""
        other = Shopper(self._goal, self._only)
        other._read, other._rejected, other._exhausted = dict(self._read), self._rejected, self._exhausted
        return other

    def observe(self, page: Page) -> None:
        """Remember what a page says."""
        id = page.view.product
        if page.view.page == "item":
            if page.view.tab == FEATURES:
                self._read[id] = "\n".join(page.lines[1:]).lower()
            elif not page.view.tab and self._is_wrong(page):
                self._rejected |= {id}
        elif page.view.page == "results" and not self._candidate(page) and NEXT.lower() not in page.clickable:
            self._exhausted |= {page.view.query}

    def act(self, page: Page) -> str:
        """The next action, `search[...]` or `click[...]`."""
        if page.view.page == "search":
            return f"search[{self._query()}]"
        if page.view.page == "results":
            candidate = self._candidate(page)
            onwards = NEXT if NEXT.lower() in page.clickable else BACK
            return f"click[{candidate.label if candidate else onwards}]"
        return f"click[{self._on_item(page)}]"

    def _on_item(self, page: Page) -> str:
        id = page.view.product
        if page.view.tab or id in self._rejected:
            return PREVIOUS
        if self._unread(page):
            return FEATURES
        for name, value in self._goal.options:
            if not has_option(dict(page.view.options), name, value):
                return next(link.label for link in page.links if _fits(link, name, value))
        return BUY if self._affordable(page) else PREVIOUS

    def _candidate(self, page: Page) -> Link | None:
        """The first result that the title, the price and what is remembered do not rule out."""
        for link in page.links:
            title, price = link.text.rsplit(", ", 1)
            fits = link.label == self._only if self._only else title_score(title, self._goal.product.kind) > 0.2
            if fits and link.label not in self._rejected and _cents(price) <= self._goal.limit:
                return link
        return None

    def _is_wrong(self, page: Page) -> bool:
        if self._only:
            return page.view.product != self._only
        if title_score(page.lines[0], self._goal.product.kind) <= 0.2:
            return True
        for name, value in self._goal.options:
            if not any(_fits(link, name, value) for link in page.links):
                return True
        read = self._read.get(page.view.product)
        if read is not None and not all(
            text in read or text in page.lines[0].lower() for text in self._goal.attributes
        ):
            return True
        chosen = dict(page.view.options)
        as_wanted = all(has_option(chosen, name, value) for name, value in self._goal.options)
        return as_wanted and len(chosen) == len(self._goal.options) and not self._affordable(page)

    def _unread(self, page: Page) -> bool:
        """The title does not tell and the features were not read."""
        title = page.lines[0].lower()
        return (
            not self._only
            and page.view.product not in self._read
            and not all(text in title for text in self._goal.attributes)
        )

    def _affordable(self, page: Page) -> bool:
        return _cents(page.lines[1].removeprefix("Price: ")) <= self._goal.limit

    def _query(self) -> str:
        """The first that has not shown all it finds."""
        known = [" ".join(keywords(self._goal.product.title))] if self._only else queries(self._goal)
        return next((query for query in known if query not in self._exhausted), known[-1])


def queries(goal: Goal) -> list[str]:
    """What the instruction says, in searches of fewer and fewer words: all of it, without options, the kind alone."""
    kind, options = goal.product.kind, [value for _, value in goal.options]
    texts = ((kind, *goal.attributes, *options), (kind, *goal.attributes), (kind,))
    return list(dict.fromkeys(" ".join(keywords(" ".join(words))) for words in texts))


def _fits(link: Link, name: str, value: str) -> bool:
    return bool(link.option) and has_option({link.option: link.value}, name, value)


def _cents(price: str) -> int:
    return round(100 * float(price.removeprefix("$")))
