"""A page as text: Chromium's accessibility tree, one line each, with a number for everything that can be acted upon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from .page_text import MAX_NAME_CHARS, Box, Element, PageText, quoted

STYLES = ["background-color", "background-image", "border-top-style"]
MAX_ELEMENTS = 600

WIDGETS = frozenset(
    [
        "button",
        "checkbox",
        "combobox",
        "link",
        "listbox",
        "menuitem",
        "menuitemcheckbox",
        "menuitemradio",
        "option",
        "radio",
        "searchbox",
        "slider",
        "spinbutton",
        "switch",
        "tab",
        "textbox",
        "treeitem",
        "ColorWell",
        "Date",
        "DateTime",
        "InputTime",
        "DisclosureTriangle",
    ]
)
FIELDS = frozenset(("textbox", "searchbox", "combobox", "spinbutton", "Date", "DateTime", "InputTime", "ColorWell"))
_SHAPES = frozenset(("circle", "rect", "polygon", "polyline", "ellipse", "path", "line", "text"))
_SHAPE_FACTS = ("fill", "stroke", "x", "y", "width", "height", "cx", "cy", "r", "rx", "ry", "points", "x1", "y1", "x2",
                "y2", "font-size")  # fmt: skip
_INLINE = frozenset(
    [
        "a",
        "abbr",
        "b",
        "bdi",
        "bdo",
        "cite",
        "code",
        "em",
        "font",
        "i",
        "kbd",
        "label",
        "mark",
        "q",
        "s",
        "samp",
        "small",
        "span",
        "strong",
        "sub",
        "sup",
        "u",
        "var",
    ]
)
_NEVER = frozenset(("html", "body", "#document", "script", "style", "head", "form", "label"))
_NO_COLOUR = "rgba(0, 0, 0, 0)"
_PICTURES = frozenset(("svg", "canvas", "img"))
_STATES = ("checked", "selected", "pressed", "expanded", "disabled", "readonly", "multiline", "focused")


class _Dom(NamedTuple):
    index: int
    tag: str
    clickable: bool
    laid_out: bool


def describe(tree: dict[str, Any], snapshot: dict[str, Any], places: bool = False) -> PageText:
    """The text of a page from Chromium's `Accessibility.getFullAXTree` and `DOMSnapshot.captureSnapshot` (`STYLES`).

    places: say where everything is, and list what is seen and has neither words nor a use: pictures, coloured boxes.
    """
    reader = _Reader(tree["nodes"], snapshot, places)
    if tree["nodes"]:
        reader.read(tree["nodes"][0], False)
    reader.read_other_drawings()
    if places:
        reader.read_boxes()
    reader.flush()
    return PageText("\n".join(reader.lines), tuple(reader.elements))


class _Reader:
    """Walks the accessibility tree in the order of the document."""

    def __init__(self, nodes: list[dict[str, Any]], snapshot: dict[str, Any], places: bool) -> None:
        self._nodes = {node["nodeId"]: node for node in nodes}
        self._strings: list[str] = [*snapshot["strings"], ""]  # the last is what an index of -1 means
        self._document = snapshot["documents"][0]
        self._parents: list[int] = self._document["nodes"]["parentIndex"]
        self._dom = dict(self._read_dom())
        self._drawn = set[int]()
        self._rows = {index: row for row, index in enumerate(self._document["layout"]["nodeIndex"])}
        self._places = places
        self._named = {_value(node, "name") for node in nodes if _value(node, "role") in WIDGETS}
        self.lines: list[str] = []
        self.elements: list[Element] = []
        self._texts: list[str] = []
        self._text_box: Box | None = None
        self._block = self._last_text = -1
        kinds, values = self._document["nodes"]["nodeType"], self._document["nodes"]["nodeValue"]
        self._spaces = {at for at, kind in enumerate(kinds) if kind == 3 and not self._strings[values[at]].strip()}

    def _read_dom(self) -> Iterator[tuple[int, _Dom]]:
        nodes = self._document["nodes"]
        clickable, laid_out = set(nodes["isClickable"]["index"]), set(self._document["layout"]["nodeIndex"])
        for index, (id, name) in enumerate(zip(nodes["backendNodeId"], nodes["nodeName"], strict=True)):
            yield id, _Dom(index, self._strings[name].lower(), index in clickable, index in laid_out)

    def read(self, node: dict[str, Any], named: bool) -> None:
        """Write `node` and what is below it; `named`: its text is already written, as somebody's name."""
        role, dom = _value(node, "role"), self._dom.get(node.get("backendDOMNodeId", -1))
        if role == "StaticText":
            if not named:
                self._add_text(_value(node, "name"), dom)
            return
        if (svg := self._svg_of(dom)) is not None:
            if svg not in self._drawn:
                self._read_drawing(svg)
        elif dom and dom.tag not in _NEVER and role in WIDGETS and not node.get("ignored"):
            self._read_widget(node, role, dom)
        elif dom and dom.laid_out and dom.tag not in _NEVER and (dom.clickable or _focusable(node)):
            self._read_clickable(node, named)
        elif role in ("row", "LayoutTableRow") and not named and self._is_plain(node):
            self._write(" | ".join(filter(None, (self._text(child) for child in self._children(node)))))
        elif role == "image" and not named and _value(node, "name"):
            self._write(f"image {quoted(_value(node, 'name'))}")
        else:
            self._below(node, named or (role == "LabelText" and self._text(node) in self._named))

    def flush(self) -> None:
        """End the line of text under way."""
        line, self._texts = " ".join("".join(self._texts).split()), []
        if line and self._text_box:
            line = f"{line} {self._text_box.words()}"
        self._block, self._text_box = -1, None
        self.lines += [line] if line else []

    def _below(self, node: dict[str, Any], named: bool) -> None:
        for child in self._children(node):
            self.read(child, named)

    def _read_widget(self, node: dict[str, Any], role: str, dom: _Dom) -> None:
        below = (
            [each for each in self._all_below(node) if _value(each, "role") == "option"] if dom.tag == "select" else []
        )
        name, value = _value(node, "name"), _value(node, "value") if role in (*FIELDS, "slider", "listbox") else ""
        if below and not value:
            value = ", ".join(_value(each, "name") for each in below if "selected" in _states(each))
        options = tuple(_value(each, "name") for each in below)
        look = "" if name or role in FIELDS else self._look(dom.index)
        self._add(Element(0, role, name, value, node["backendDOMNodeId"], _states(node), options, look))
        if dom.tag != "select" and role not in FIELDS:
            self._below(node, named=bool(name))

    def _read_clickable(self, node: dict[str, Any], named: bool) -> None:
        text = self._text(node)
        whole = len(text) <= MAX_NAME_CHARS // 3 and self._is_plain(node)
        if self._places:  # a name has one place, so what stands below one another is not one name
            texts = (each for each in self._all_below(node) if _value(each, "role") == "StaticText")
            blocks = {self._block_of(self._dom.get(each.get("backendDOMNodeId", -1))) for each in texts}
            whole = whole and len(blocks) < 2
        look = "" if whole and text else self._look(self._dom[node["backendDOMNodeId"]].index)
        name = text if whole else ""
        self._add(Element(0, "clickable", name, "", node["backendDOMNodeId"], _states(node), look=look))
        self._below(node, named or whole)

    def read_other_drawings(self) -> None:
        """Drawings that the accessibility tree leaves out, after everything else."""
        for dom in list(self._dom.values()):
            if dom.tag == "svg" and dom.laid_out and dom.index not in self._drawn:
                self._read_drawing(dom.index)

    def read_boxes(self) -> None:
        """What has a picture, a background or a border, no words, and no element in it; and drawings."""
        known = {self._dom[each.node].index for each in self.elements}
        taken = known.union(*(self._ancestors(index) for index in known))
        nodes = self._document["nodes"]
        for index, kind in enumerate(nodes["nodeType"]):
            if kind == 3 and self._strings[nodes["nodeValue"][index]].strip():
                taken.update(self._ancestors(index))
        for id, dom in list(self._dom.items()):
            box = self._box(dom.index)
            seen = box and min(box.width, box.height) > 1 and nodes["nodeType"][dom.index] == 1 and self._is_seen(dom)
            if seen and (dom.tag == "svg" or dom.index not in taken):
                look = " ".join(filter(None, (dom.tag if dom.tag in _PICTURES else "", self._look(dom.index))))
                self._add(Element(0, "box", "", "", id, look=look))

    def _is_seen(self, dom: _Dom) -> bool:
        styles = self._styles(dom.index)
        return dom.tag in _PICTURES or (dom.tag not in _NEVER and styles not in ([], [_NO_COLOUR, "none", "none"]))

    def _styles(self, index: int) -> list[str]:
        """What `STYLES` are for a node; nothing where it is not laid out."""
        rows = self._document["layout"]["styles"]
        return [self._strings[each] for each in rows[self._rows[index]]] if index in self._rows else []

    def _box(self, index: int) -> Box | None:
        """Where a node is seen; None where places are not asked for, or it is not laid out."""
        if not self._places or index not in self._rows:
            return None
        left, top, width, height = self._document["layout"]["bounds"][self._rows[index]]
        return Box(left - self._document["scrollOffsetX"], top - self._document["scrollOffsetY"], width, height)

    def _svg_of(self, dom: _Dom | None) -> int | None:
        """The drawing that an element is or is a part of."""
        if dom is None or not (dom.tag == "svg" or dom.tag in _SHAPES or dom.tag in ("g", "tspan")):
            return None
        tags = self._document["nodes"]["nodeName"]
        places = (dom.index, *self._ancestors(dom.index))
        return next((index for index in places if index >= 0 and self._strings[tags[index]].lower() == "svg"), None)

    def _read_drawing(self, svg: int) -> None:
        self._drawn.add(svg)
        ids = {dom.index: id for id, dom in self._dom.items()}
        for dom in self._dom.values():
            if dom.index > svg and dom.tag in _SHAPES and dom.laid_out and svg in self._ancestors(dom.index):
                facts = self._attributes(dom.index)
                shown = ((name, " ".join(facts[name].split())) for name in _SHAPE_FACTS if name in facts)
                look = " ".join([dom.tag, *(f"{name}={value}" for name, value in shown if value)])
                text = " ".join("".join(self._dom_texts(dom.index)).split())
                self._add(Element(0, "shape", text, "", ids[dom.index], look=look[:MAX_NAME_CHARS]))

    def _attributes(self, index: int) -> dict[str, str]:
        pairs = [self._strings[i] for i in self._document["nodes"]["attributes"][index]]
        return dict(zip(pairs[::2], pairs[1::2], strict=True))

    def _look(self, index: int) -> str:
        """Classes or else the id of an element, and its background where it has a colour."""
        facts = self._attributes(index)
        names = facts.get("class") or facts.get("id") or ""
        colour = next(iter(self._styles(index)), "")
        shown = "" if colour in ("", _NO_COLOUR) else f"background={colour.replace(' ', '')}"
        return " ".join(filter(None, (" ".join(f".{name}" for name in names.split()), shown)))[:MAX_NAME_CHARS]

    def _dom_texts(self, index: int) -> Iterator[str]:
        nodes = self._document["nodes"]
        for child, parent in enumerate(self._parents):
            if child > index and nodes["nodeType"][child] == 3 and index in (parent, *self._ancestors(parent)):
                yield self._strings[nodes["nodeValue"][child]]

    def _ancestors(self, index: int) -> Iterator[int]:
        while index >= 0:
            index = self._parents[index]
            yield index

    def _add(self, element: Element) -> None:
        self.flush()
        if len(self.elements) < MAX_ELEMENTS:
            box = self._box(self._dom[element.node].index)
            element = element._replace(number=len(self.elements) + 1, box=box)
            self.elements.append(element)
            self.lines.append(element.line())

    def _write(self, line: str) -> None:
        self.flush()
        self.lines += [line] if line else []

    def _add_text(self, text: str, dom: _Dom | None) -> None:
        block = self._block_of(dom)
        if block != self._block:
            self.flush()
        elif dom and not self._spaces.isdisjoint(range(self._last_text + 1, dom.index)):
            self._texts.append(" ")  # the tree has such spaces at some times only
        self._block, self._last_text = block, dom.index if dom else self._last_text
        self._texts.append(text)
        box = self._box(dom.index) if dom else None
        self._text_box = box.around(self._text_box) if box and self._text_box else box or self._text_box

    def _block_of(self, dom: _Dom | None) -> int:
        """The nearest ancestor that begins a line of its own."""
        tags = self._document["nodes"]["nodeName"]
        for index in self._ancestors(dom.index) if dom else ():
            if index < 0 or self._strings[tags[index]].lower() not in _INLINE:
                return index
        return -1

    def _children(self, node: dict[str, Any]) -> list[dict[str, Any]]:
        return [self._nodes[id] for id in node.get("childIds", ()) if id in self._nodes]

    def _all_below(self, node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for child in self._children(node):
            yield child
            yield from self._all_below(child)

    def _text(self, node: dict[str, Any]) -> str:
        texts = (
            _value(each, "name") for each in (node, *self._all_below(node)) if _value(each, "role") == "StaticText"
        )
        return " ".join(" ".join(texts).split())

    def _is_plain(self, node: dict[str, Any]) -> bool:
        """Nothing below it can be acted upon."""
        for each in self._all_below(node):
            dom = self._dom.get(each.get("backendDOMNodeId", -1))
            listens = dom and (dom.tag == "svg" or (dom.clickable and dom.tag != "label") or _focusable(each))
            if _value(each, "role") in WIDGETS or (listens and _value(each, "role") != "StaticText"):
                return False
        return True


def _value(node: dict[str, Any], field: str) -> str:
    return str(node.get(field, {}).get("value", ""))


def _focusable(node: dict[str, Any]) -> bool:
    """The keyboard reaches it, and it is no part of a text that is being edited."""
    found = {each["name"]: each["value"].get("value") for each in node.get("properties", ())}
    return found.get("focusable") is True and "editable" not in found


def _states(node: dict[str, Any]) -> tuple[str, ...]:
    found = {each["name"]: each["value"].get("value") for each in node.get("properties", ())}
    return tuple(name for name in _STATES if found.get(name) in (True, "true", "mixed"))
