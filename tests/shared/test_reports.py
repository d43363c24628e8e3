"""The frame that all reports share, through the eyes of a parser."""

from __future__ import annotations

import html.parser

from shared.reports import data_url, escaped, figures, page, section, table

EVIL = '</td><script>alert("1")</script>'


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the words outside the style sheet."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._tag = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self._tag != "style" and data.strip():
            self.words.append(data.strip())

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


def test_a_page_needs_nothing_beside_it_and_forbids_the_rest() -> None:
    image = f'<img src="{data_url(b"abc", "png")}">'
    text = page(EVIL, [section(EVIL, image), "", figures([(EVIL, "$body")])], ".mine { color: red; }\n")
    found = Page(text)
    assert not found.tags("script")
    assert not found.tags("link")
    assert "://" not in text
    assert found.tags("img") == [{"src": "data:image/png;base64,YWJj"}]
    policy = [each["content"] for each in found.tags("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert found.words == [EVIL, EVIL, EVIL, "$body"]  # title, heading, figure: shown as they were written
    assert text.count(".mine { color: red; }") == 1


def test_a_table_marks_words_and_the_chosen_row() -> None:
    found = Page(table(["name", "why", "ms"], [["a", EVIL, 1.5], ["b", "", 2]], words=(1,), chosen=1))
    assert found.words == ["name", "why", "ms", "a", EVIL, "1.5", "b", "2"]
    assert found.tags("tr") == [{}, {}, {"class": "chosen"}]
    assert found.tags("td") == [{}, {"class": "words"}, {}] * 2
    assert found.tags("th") == [{}, {"class": "words"}, {}]


def test_a_file_name_that_is_no_utf_8_is_shown() -> None:
    assert escaped(b"caf\xe9.png".decode("utf-8", "surrogateescape")) == "caf\\udce9.png"
