"""Passages: the statements of a Markdown document, each with the heading that it stands under."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.errors import UserError

HEADING = re.compile(r"#{1,6} +(?:(?P<section>\w+): +)?(?P<title>.+)")


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A statement that makes sense by itself.

    Attributes:
        section: short name of the section, or its title.
        title: heading of the section.
        text: what is stated.
    """

    section: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.title}: {self.text}"


def read_sections(path: Path) -> list[Passage]:
    """Every section of a Markdown file, all its items together in one passage; see `read_passages`.

    Raises:
        UserError: there is no such file, or no item in it.
    """
    sections: dict[str, list[Passage]] = {}
    for passage in read_passages(path):
        sections.setdefault(passage.section, []).append(passage)
    return [replace(items[0], text=" ".join(item.text for item in items)) for items in sections.values()]


def read_passages(path: Path) -> list[Passage]:
    """Every item of a list under a heading of a Markdown file; a heading may be `## short_name: Title`.

    Raises:
        UserError: there is no such file, or no item in it.
    """
    if not path.is_file():
        raise UserError(f"no document at {path}")
    passages: list[Passage] = []
    section = title = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if heading := HEADING.fullmatch(line):
            title = heading["title"].strip()
            section = heading["section"] or title
        elif line.startswith("- "):
            passages.append(Passage(section=section, title=title, text=line[2:].strip()))
        elif line.startswith("  ") and passages and line.strip():
            last = passages.pop()
            passages.append(Passage(section=last.section, title=last.title, text=f"{last.text} {line.strip()}"))
    if not passages:
        raise UserError(f"{path} holds no list items (lines that begin with '- '): there is nothing to find in it")
    return passages
