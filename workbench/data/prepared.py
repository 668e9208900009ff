"""The data of a recipe, ready for a checkpoint: made once, and opened by whoever needs them next."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import files
from workbench.data.columns import looked_at
from workbench.data.contents import contents_of
from workbench.data.examples import conversation
from workbench.data.keys import checksum, data_key, rows_key
from workbench.data.notes import noting
from workbench.data.pairs import Pairs
from workbench.data.reading import Found
from workbench.data.render import Renderer, render_all
from workbench.data.splits import Splits, load_splits
from workbench.data.store import Store
from workbench.data.template import has_thoughts
from workbench.errors import UserError
from workbench.recipe import Recipe
from workbench.results import NearCopies, SplitContents, to_json
from workbench.sources import Fingerprint, Source, read_rows

logger = logging.getLogger(__name__)

# What older versions did not note: their data are made anew.
WRITTEN_SINCE = {"thinking", "near"}


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """The splits of a recipe as examples with their tokens, in a store.

    Attributes:
        pairs: split -> examples with their tokens, those too long left out.
        too_long: split -> ids of the examples that were too long.
        repeated, leaked: training examples left out, see `workbench.data.Splits`.
        fingerprints: split -> what its rows were, see `workbench.data.Splits`.
        near: near copies within and between splits, see `workbench.data.Splits`.
        sources, found: source -> its fingerprint, and what it was found to be, see `workbench.data.Splits`.
        names: split -> what its examples are called in the store.
        checksums: split -> sha256 of its examples and of its tokens, as they lie in the store.
        thinking: whether prompts let the model think aloud, see `Recipe.enable_thinking`.
        contents: split -> what its answers are.
        remarks: split -> what else was noted of its examples, and how often.
        store, key: where they lie; another process opens them with `PreparedData.open(Store(folder), key)`.
    """

    pairs: Mapping[str, Pairs]
    too_long: Mapping[str, Sequence[str]]
    repeated: int
    leaked: int
    near: Sequence[NearCopies]
    fingerprints: Mapping[str, str]
    sources: Mapping[str, str]
    found: Mapping[str, Found]
    names: Mapping[str, str]
    checksums: Mapping[str, Sequence[str]]
    thinking: bool
    contents: Mapping[str, SplitContents]
    remarks: Mapping[str, Mapping[str, int]]
    store: Store
    key: str

    @property
    def content(self) -> str:
        """A checksum of the key and of all examples and tokens, under which further data made of them may be kept."""
        return checksum([self.key, *([split, *checksums] for split, checksums in self.checksums.items())])

    def save(self) -> None:
        """Leave beside the data what else `open` needs; data whose record is missing are unfinished."""
        record = {
            "splits": {
                split: {
                    "sha256": list(self.checksums[split]),
                    "fingerprint": self.fingerprints[split],
                    "examples": self.names[split],
                    "too_long": list(self.too_long[split]),
                    "remarks": dict(self.remarks[split]),
                    "contents": vars(self.contents[split]),
                }
                for split in self.pairs
            },
            "thinking": self.thinking,
            "repeated": self.repeated,
            "leaked": self.leaked,
            "near": to_json(self.near),
            "sources": dict(self.sources),
            "found": {name: vars(one) for name, one in self.found.items()},
        }
        files.write_json(_record_path(self.store, self.key), record)

    @classmethod
    def open(cls, store: Store, key: str) -> "PreparedData":
        """Open what was saved under `key`, in this process or another one.

        Raises:
            UserError: there is nothing under this key, or a file is not what was saved.
        """
        record = _read_record(store, key)
        if record is None:
            raise UserError(f"{store.folder} holds no prepared data under the key {key}")
        pairs = {}
        for split, saved in record["splits"].items():
            names = (saved["examples"], _tokens(key, split))
            if [store.sha256(name) for name in names] != saved["sha256"]:
                raise store.damaged(f"the files of {split!r} are not those that were saved under the key {key}")
            examples, tokens = map(store.open, names)
            pairs[split] = Pairs(tokens, examples)
        return cls(
            pairs=pairs,
            too_long={split: saved["too_long"] for split, saved in record["splits"].items()},
            thinking=record["thinking"],
            repeated=record["repeated"],
            leaked=record["leaked"],
            near=[NearCopies(**values) for values in record["near"]],
            fingerprints={split: saved["fingerprint"] for split, saved in record["splits"].items()},
            sources=record["sources"],
            found={name: Found(**values) for name, values in record["found"].items()},
            names={split: saved["examples"] for split, saved in record["splits"].items()},
            checksums={split: saved["sha256"] for split, saved in record["splits"].items()},
            contents={split: SplitContents(**saved["contents"]) for split, saved in record["splits"].items()},
            remarks={split: saved["remarks"] for split, saved in record["splits"].items()},
            store=store,
            key=key,
        )


def prepare_data(
    recipe: Recipe,
    renderer: Callable[[bool], Renderer],
    limit: int | None = None,
    store: Store | None = None,
    recipe_sha256: str | None = None,
) -> PreparedData:
    """Read, check and render every split of `recipe`, or open what was made of the same before.

    What was made before counts if its key is the same, see `rows_key` and `data_key`, and if the rows of every split
    are: those of functions are read again to know that. A document that a recipe's functions read beside the rows is
    not looked at, so a store belongs to one run.

    Args:
        renderer: makes the renderer, of prompts that let the model think aloud or don't; called when the rows have been
            looked at, unless they were before.
        limit: at most so many examples of each split, the first ones.
        store: where the data go; None takes a temporary one.
        recipe_sha256: of the recipe's file; without it nothing that was made before is opened.

    Raises:
        UserError: a source can't be read, rows are wrong or can't be rendered, or every example of a split is too long.
    """
    store = store or Store.temporary()
    recipe = looked_at(recipe)
    rows = rows_key(recipe, limit, recipe_sha256)
    known = [_read_json(store, path) for path in sorted(store.folder.glob(f"{rows}-*.prepared.json"))]
    known = [record for record in known if record.keys() >= WRITTEN_SINCE]
    splits = None if known else _read(recipe, limit, store, rows)
    thinking = recipe.enable_thinking
    if thinking is None:
        thinking = _has_thoughts(splits) if splits else bool(known[0]["thinking"])
    key = data_key(rows, recipe, renderer(thinking))
    if splits is None and _is_current(store, key, recipe.sources):
        prepared = PreparedData.open(store, key)
        logger.info("the data are those prepared before, in %s", store.folder)
    else:
        _record_path(store, key).unlink(missing_ok=True)  # of rows that a function no longer gives
        splits = splits or _read(recipe, limit, store, rows)
        prepared = _made(splits, renderer(thinking), thinking, recipe.max_tokens, store, key)
        prepared.save()
    _warn(prepared, recipe.max_tokens)
    return prepared


def _is_current(store: Store, key: str, sources: Mapping[str, Source]) -> bool:
    """Whether what is saved under `key` was made of the rows that the sources have now."""
    record = _read_record(store, key)
    if record is None:
        return False
    return all(_fingerprint(source) == record["sources"][name] for name, source in sources.items())


def _fingerprint(source: Source) -> str:
    found = Fingerprint(source)
    if callable(source):
        for row in read_rows(source):
            found.add(row)
    return str(found)


def _read(recipe: Recipe, limit: int | None, store: Store, rows: str) -> Splits:
    make = recipe.row_to_examples or conversation
    return load_splits(recipe.data, make, limit, recipe.allow_leaks, store, f"{rows}.", recipe.split_seed)


def _has_thoughts(splits: Splits) -> bool:
    return any(has_thoughts(example.completion, example.turn) for example in splits.examples["train"])


def _made(splits: Splits, renderer: Renderer, thinking: bool, max_tokens: int, store: Store, key: str) -> PreparedData:
    pairs: dict[str, Pairs] = {}
    too_long: dict[str, list[str]] = {}
    remarks: dict[str, dict[str, int]] = {}
    for split, examples in splits.examples.items():
        with noting() as notes:
            pairs[split], too_long[split] = render_all(renderer, examples, max_tokens, store, f"{key}.{split}")
        remarks[split] = dict(notes.remarks)
    return PreparedData(
        pairs=pairs,
        too_long=too_long,
        repeated=splits.repeated,
        leaked=splits.leaked,
        near=splits.near,
        fingerprints=splits.fingerprints,
        sources=splits.sources,
        found=splits.found,
        names=splits.names,
        checksums={
            split: [store.sha256(name) for name in (splits.names[split], _tokens(key, split))] for split in pairs
        },
        thinking=thinking,
        contents={split: contents_of(examples) for split, examples in splits.examples.items()},
        remarks=remarks,
        store=store,
        key=key,
    )


def _warn(prepared: PreparedData, max_tokens: int) -> None:
    """Say what was left out.

    Raises:
        UserError: nothing is left of a split.
    """
    for split, pairs in prepared.pairs.items():
        if left_out := prepared.too_long[split]:
            logger.warning(
                "%s: %d of %d examples have more than max_tokens=%d and are left out (%s%s)",
                split, len(left_out), len(pairs) + len(left_out), max_tokens,
                ", ".join(left_out[:3]), ", ..." * (len(left_out) > 3),
            )  # fmt: skip
        if not pairs:
            raise UserError(f"{split}: every example has more than max_tokens={max_tokens} tokens")
    if prepared.repeated or prepared.leaked:
        logger.warning(
            "train: left out %d repeated examples and %d that stand in another split",
            prepared.repeated, prepared.leaked,
        )  # fmt: skip


def _tokens(key: str, split: str) -> str:
    """What the tokens of a split are called in a store."""
    return f"{key}.{split}.tokens"


def _record_path(store: Store, key: str) -> Path:
    return store.folder / f"{key}.prepared.json"


def _read_record(store: Store, key: str) -> dict[str, Any] | None:
    """What `PreparedData.save` wrote; None if it did not.

    Raises:
        UserError: it can't be read.
    """
    path = _record_path(store, key)
    record = _read_json(store, path) if path.is_file() else None
    return record if record and record.keys() >= WRITTEN_SINCE else None


def _read_json(store: Store, path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise store.damaged(f"{path.name} can't be read") from error
    return record
