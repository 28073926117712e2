"""A page of HTML read back: its elements, as a browser would nest them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "img", "link", "polyline", "circle", "path"}  # elements without an end


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str = "", of_class: str = "") -> list[Element]:
        """Every element within, of a tag or class where one is given."""
        return [
            element
            for element in self.walk()
            if tag in ("", element.tag) and (not of_class or of_class in element.classes)
        ]

    def walk(self) -> Iterator[Element]:
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child.walk()

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(page: str) -> Element:
    """The document; an element that is closed in another's place fails."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    (root,) = reader.open
    return root


# What nothing in a page may be or have: what runs, loads or leads out of the file.
FORBIDDEN_TAGS = {"script", "link", "iframe", "object", "embed", "img", "base", "form", "a", "use"}
FORBIDDEN_ATTRIBUTES = {"src", "href", "style", "action", "srcset", "background"}


def assert_nothing_from_elsewhere(page: str) -> None:
    for element in read(page).all():
        assert element.tag not in FORBIDDEN_TAGS
        assert not FORBIDDEN_ATTRIBUTES & element.attributes.keys()
        assert not any(name.startswith("on") for name in element.attributes)
        if element.tag == "style":
            assert "url(" not in element.text
            assert "@import" not in element.text
