"""The search of a built site outside of a browser: ``python docs/_sphinx/search.py SITE QUESTION ...`` prints JSON.

It reads the same index as the page ``search.html``, and ranks as ``_static/searchtools.js`` of Sphinx 8 and 9 and our
``_static/scorer.js`` do.
"""

from __future__ import annotations

import json
import re
import sys
from html import unescape
from pathlib import Path
from typing import Any

from sphinx.search.en import SearchEnglish

TITLE, PARTIAL_TITLE, TERM, PARTIAL_TERM, NAME, PARTIAL_NAME = 15, 7, 5, 2, 11, 6
FOLDERS = {"howto": 3, "guides": 3, "start": 3, "migrate": 1, "reference": -4, "changelog": -6, "contributing": -6}
"""What ``scorer.js`` adds by the first part of a page's name."""
Hit = tuple[str, str, str, float, str]
"""Page, title, anchor, score, kind."""


class Search:
    """The index of a built site."""

    def __init__(self, site: Path) -> None:
        text = (site / "searchindex.js").read_text()
        self.site = site
        self.index: dict[str, Any] = json.loads(text[text.index("(") + 1 : text.rindex(")")])
        self.language = SearchEnglish({})

    def find(self, question: str) -> list[Hit]:
        """Return the hits, best first."""
        lower = question.lower().strip()
        words = re.findall(r"\w+", lower)
        terms = {self.language.stem(word) for word in words if word not in self.language.stopwords}
        terms = {term for term in terms if not term.isdigit()}
        main, other = self._titles(lower), []
        for entry, found in self.index["indexentries"].items():
            if lower in entry and len(lower) >= len(entry) / 2:
                for page, anchor, is_main in found:
                    hit = self._hit(page, anchor, round(100 * len(lower) / len(entry)), "index")
                    (main if is_main else other).append(hit)
        for word in set(words):
            main += self._objects(word, {*words} - {word})
        main += self._terms(terms)
        ranked = [sorted(hits, key=lambda hit: (-hit[3], hit[1].lower())) for hits in (main, other)]
        return [hit for hits in ranked for hit in hits]

    def text(self, hit: Hit) -> str:
        """Return what stands on the page from a hit's place on, as a reader sees it."""
        html = (self.site / f"{hit[0]}.html").read_text()
        body = html[html.index('<article role="main"') :]
        if hit[2] and (place := body.find(f'id="{hit[2]}"')) >= 0:
            body = body[body.rindex("<", 0, place) :]
        body = re.sub(r"<(script|style).*?</\1>", "", body, flags=re.DOTALL)
        return " ".join(unescape(re.sub(r"<[^>]+>", "", body)).split())

    def _hit(self, page: int, anchor: str | None, score: float, kind: str, title: str = "") -> Hit:
        name = self.index["docnames"][page]
        score += FOLDERS.get(name.partition("/")[0], 0)
        return name, title or self.index["titles"][page], anchor or "", score, kind

    def _titles(self, lower: str) -> list[Hit]:
        hits = []
        for title, found in self.index["alltitles"].items():
            if lower in title.lower() and len(lower) >= len(title) / 2:
                for page, anchor in found:
                    own = self.index["titles"][page] == title
                    full = title if own else f"{self.index['titles'][page]} > {title}"
                    hits.append(self._hit(page, anchor, round(TITLE * len(lower) / len(title)) + own, "title", full))
        return hits

    def _objects(self, word: str, others: set[str]) -> list[Hit]:
        hits = []
        for prefix, found in self.index["objects"].items():
            for page, kind, priority, anchor, name in found:
                full = f"{prefix}.{name}" if prefix else name
                title, what = self.index["titles"][page], self.index["objnames"][str(kind)][2]
                around = f"{prefix} {name} {what} {title}".lower()
                if word not in full.lower() or any(term not in around for term in others):
                    continue
                last = full.lower().split(".")[-1]
                score = NAME if word in (full.lower(), last) else PARTIAL_NAME if word in last else 0
                score += {0: 15, 1: 5, 2: -5}.get(priority, 0)
                place = full if anchor == "" else f"{self.index['objnames'][str(kind)][1]}-{full}"
                hits.append(self._hit(page, place if anchor in ("", "-") else anchor, score, "object", full))
        return hits

    def _terms(self, terms: set[str]) -> list[Hit]:
        scores: dict[int, dict[str, int]] = {}
        for term in terms:
            for index, exact, partial in (("terms", TERM, PARTIAL_TERM), ("titleterms", TITLE, PARTIAL_TITLE)):
                known: dict[str, Any] = self.index[index]
                found = {term: exact} if term in known else {}
                if not found and len(term) > 2:
                    found = {other: partial for other in known if term in other}
                for other, score in found.items():
                    pages = known[other] if isinstance(known[other], list) else [known[other]]
                    for page in pages:
                        scores.setdefault(page, {})[term] = score
        least = {len(terms), sum(len(term) > 2 for term in terms)}
        return [
            self._hit(page, None, max(found.values()), "text") for page, found in scores.items() if len(found) in least
        ]


def main(site: str, *questions: str) -> None:
    """Print the best hits of each question, and the text at the first."""
    search = Search(Path(site))
    answers = {}
    for question in questions:
        hits = search.find(question)
        answers[question] = {"hits": hits[:5], "text": search.text(hits[0])[:3000] if hits else ""}
    print(json.dumps(answers, indent=1))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
