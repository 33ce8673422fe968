"""The pages of the shop: what is on them and where their links lead. The text game and the web site both show these."""

from __future__ import annotations

from typing import NamedTuple

from .catalogue import Catalogue, Product, dollars
from .reward import Goal

PAGE_SIZE = 10
BACK, PREVIOUS, NEXT, BUY, SEARCH = "Back to Search", "< Prev", "Next >", "Buy Now", "Search"
TABS = ("Description", "Features")


class View(NamedTuple):
    """Where a visitor is; everything that decides what a page shows, and what its address holds."""

    page: str = "search"
    """`search`, `results`, `item` or `done`."""
    query: str = ""
    number: int = 1
    product: str = ""
    options: tuple[tuple[str, str], ...] = ()
    tab: str = ""


class Link(NamedTuple):
    """Something to click: `option` names the choice that it makes, `text` what stands beside it."""

    label: str
    view: View
    option: str = ""
    text: str = ""
    chosen: bool = False

    @property
    def value(self) -> str:
        """The value that it gives its option."""
        return dict(self.view.options).get(self.option, "")


class Page(NamedTuple):
    """One page: links of the head, what is written, then links of the body."""

    view: View
    instruction: str
    top: tuple[Link, ...] = ()
    lines: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()

    @property
    def clickable(self) -> dict[str, Link]:
        """Links by label in lower case; a label that two options share carries the option's name."""
        return {" ".join(link.label.lower().split()): link for link in (*self.top, *self.links)}


def page(catalogue: Catalogue, goal: Goal, view: View) -> Page:
    """The page at `view`. A view of a product that is not sold is the search page."""
    product = catalogue.products.get(view.product)
    if view.page == "results":
        return _results(catalogue, goal, view)
    if view.page == "item" and product:
        return _item(goal, product, view)
    if view.page == "done" and product:
        chosen = ", ".join(f"{name} {value}" for name, value in view.options)
        order = f"You bought {product.id}: {product.title}{f' ({chosen})' if chosen else ''}."
        return Page(view, goal.text, lines=("Thank you for shopping with us!", order))
    return Page(View(), goal.text, lines=("Search our shop.",))


def _results(catalogue: Catalogue, goal: Goal, view: View) -> Page:
    found = catalogue.search(view.query)
    pages = max(1, -(-len(found) // PAGE_SIZE))
    number = min(max(view.number, 1), pages)
    view = View("results", view.query, number)
    top = [Link(BACK, View())]
    top += [Link(PREVIOUS, view._replace(number=number - 1))] if number > 1 else []
    top += [Link(NEXT, view._replace(number=number + 1))] if number < pages else []
    shown = (catalogue.products[id] for id in found[(number - 1) * PAGE_SIZE : number * PAGE_SIZE])
    links = (
        Link(each.id, view._replace(page="item", product=each.id), text=f"{each.title}, {dollars(each.cents)}")
        for each in shown
    )
    head = f'{len(found)} results for "{view.query}", page {number} of {pages}'
    return Page(view, goal.text, tuple(top), (head,), tuple(links))


def _item(goal: Goal, product: Product, view: View) -> Page:
    chosen = {name: value for name, value in view.options if _offers(product, name, value)}
    view = view._replace(options=tuple(sorted(chosen.items())), tab=view.tab if view.tab in TABS else "")
    if view.tab:
        text = (product.description,) if view.tab == "Description" else product.features
        up = view._replace(tab="")
        return Page(view, goal.text, (Link(BACK, View()), Link(PREVIOUS, up)), (f"{view.tab} of {product.id}", *text))
    results = View("results", view.query, view.number)
    links = [link for option in product.options for link in _choices(product, view, option.name, option.values, chosen)]
    links += [Link(tab, view._replace(tab=tab)) for tab in TABS]
    links.append(Link(BUY, View("done", product=product.id, options=view.options)))
    lines = (product.title, f"Price: {dollars(product.price(chosen))}")
    return Page(view, goal.text, (Link(BACK, View()), Link(PREVIOUS, results)), lines, tuple(links))


def _choices(product: Product, view: View, option: str, values: tuple[str, ...], chosen: dict[str, str]) -> list[Link]:
    taken = [value for each in product.options for value in each.values] + [name.lower() for name in (*TABS, BUY)]
    return [
        Link(
            value if taken.count(value) == 1 else f"{option}: {value}",
            view._replace(options=tuple(sorted((chosen | {option: value}).items()))),
            option=option,
            chosen=chosen.get(option) == value,
        )
        for value in values
    ]


def _offers(product: Product, name: str, value: str) -> bool:
    return any(option.name == name and value in option.values for option in product.options)


def text(page: Page) -> str:
    """A page as text: what can be clicked stands in brackets."""
    lines = [f"Instruction: {page.instruction}", " ".join(f"[{link.label}]" for link in page.top), *page.lines]
    groups: dict[str, list[Link]] = {}
    for link in page.links:
        groups.setdefault(link.option, []).append(link)
    for option, links in groups.items():
        if option:
            values = " ".join(f"[{link.label}]{' (chosen)' if link.chosen else ''}" for link in links)
            lines.append(f"{option}: {values}")
        elif page.view.page == "results":
            lines += [f"[{link.label}] {link.text}" for link in links]
        else:
            lines.append(" ".join(f"[{link.label}]" for link in links))
    if page.view.page == "search":
        lines.append(f"[{SEARCH}]")
    return "\n".join(line for line in lines if line)
