"""Training examples in a world of other figures, so that answers are read and not remembered.

A model that is trained on questions about one policy sheet learns the sheet's figures by heart, and passages in its
prompt are of no use to it: it goes on saying what it knows when the policy is another one. Where the figures of
passages and answer are replaced alike, by others in every example, only reading helps (Longpre et al. 2021,
arXiv:2109.05052, substitute names so; Neeman et al. 2022, arXiv:2211.05655, train on it).
"""

import random
import re
from dataclasses import replace

from workbench.data.examples import Example, Message

FIGURE = re.compile(r"\d+(?:[.,:]\d+)*")
YEAR = re.compile(r"(?:19|20)\d\d")


def with_other_figures(example: Example) -> Example:
    """`example` with other figures, the same ones in context and answer; drawn from its id.

    Left as it is if the answer has no figure, or one that is worked out or stands nowhere before, or if the user
    names one: what the answer says of it (more or less than another) would no longer be true.

    Args:
        example: its context is the prompt's system message.
    """
    asked = " ".join(message["content"] for message in example.prompt if message["role"] == "user")
    context = " ".join(message["content"] for message in example.prompt if message["role"] == "system")
    said, known = set(FIGURE.findall(example.completion)), set(FIGURE.findall(context))
    if not said or not said <= known or FIGURE.search(asked):
        return example
    drawn = random.Random(example.id)
    others: dict[str, str] = {}
    for figure in FIGURE.findall(context):
        if figure not in others:
            others[figure] = _other(figure, drawn, {*others.values(), *known})

    def replaced(text: str) -> str:
        return FIGURE.sub(lambda match: others.get(match[0], match[0]), text)

    prompt: tuple[Message, ...] = tuple(
        {**message, "content": replaced(message["content"])} for message in example.prompt
    )
    return replace(
        example,
        prompt=prompt,
        completion=replaced(example.completion),
        references=tuple(map(replaced, example.references)),
    )


def _other(figure: str, drawn: random.Random, taken: set[str]) -> str:
    """Another figure of the same form: zeros stay zeros, a time of day a time, a year the year it is."""
    if YEAR.fullmatch(figure):
        return figure
    most = 24 if ":" in figure else 29  # no day of a month is lost
    for _ in range(50):
        if re.fullmatch(r"[12]?\d(?::\d\d)?", figure):
            found = f"{drawn.randrange(1, most)}{figure.partition(':')[1]}{figure.partition(':')[2]}"
        else:
            found = "".join(sign if sign in ".,:0" else str(drawn.randrange(1, 10)) for sign in figure)
        if found not in taken:
            return found
    return figure
