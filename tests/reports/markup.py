"""What a page of HTML is made of, for the tests that look into one."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """Elements of a page with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]
