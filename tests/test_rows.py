"""Reading data: every wrong row is named by file and line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tiny import rows, write_rows
from workbench.data import conversation, load_splits
from workbench.errors import UserError
from workbench.sources import Fingerprint, Row, Source, read_rows


def test_json_lines_csv_and_parquet_give_the_same_rows(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    values = [{"id": "a", "text": "one, two"}, {"id": "b", "text": "中文"}]
    write_rows(tmp_path / "d.jsonl", values)
    (tmp_path / "d.csv").write_text('id,text\na,"one, two"\nb,中文\n', encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), tmp_path / "d.parquet")
    for name in ("d.jsonl", "d.csv", "d.parquet"):
        assert [dict(row.values) for row in read_rows(tmp_path / name)] == values


def test_all_malformed_lines_are_named(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(b'{"id": 1}\n{"id": \n[1]\n\xff\n')
    with pytest.raises(UserError) as caught:
        list(read_rows(tmp_path / "d.jsonl"))
    for line in (2, 3, 4):
        assert f"d.jsonl:{line}:" in str(caught.value)
    assert "d.jsonl:1:" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("d.csv", "a,b\n1,2\n1\n", "d.csv:3"),
        ("d.parquet", "no", "not a Parquet file"),
        ("d.txt", "x", "unknown kind of data file"),
        ("d.jsonl", "\n", "holds no rows"),
    ],
)
def test_what_is_no_data_is_refused(tmp_path: Path, name: str, content: str, expected: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=expected):
        list(read_rows(tmp_path / name))


def splits(tmp_path: Path, **values: list[dict]) -> dict[str, Path]:
    return {split: write_rows(tmp_path / f"{split}.jsonl", given) for split, given in values.items()}


def test_every_wrong_conversation_is_named(tmp_path: Path) -> None:
    wrong = rows(5)
    wrong[0]["messages"].reverse()
    wrong[1]["messages"][1]["content"] = " "
    wrong[2]["messages"][0]["role"] = "customer"
    wrong[3]["id"] = "row-4"
    del wrong[4]["messages"]
    wrong.append(rows(1, 4)[0])
    with pytest.raises(UserError) as caught:
        load_splits(splits(tmp_path, train=wrong, validation=rows(1, 50), test=rows(1, 60)), conversation)
    text = str(caught.value)
    assert "train.jsonl:1: wrong role order: assistant, user" in text
    assert "train.jsonl:2: message 2 is empty" in text
    assert "train.jsonl:3: message 1 has role 'customer'" in text
    assert "train.jsonl:5: no messages" in text
    assert "train.jsonl:6: id 'row-4' stands at train.jsonl:4 already" in text


def test_repeated_and_leaked_training_rows_are_left_out(tmp_path: Path) -> None:
    twice = [*rows(3), {**rows(1)[0], "id": "again"}]
    chosen_by, leaked = [{**rows(1, 50)[0], "id": "chosen by"}], [{**rows(1, 60)[0], "id": "leak"}]
    data = splits(tmp_path, train=twice + chosen_by + leaked, validation=rows(2, 50), test=rows(2, 60))
    with pytest.raises(UserError) as caught:
        load_splits(data, conversation)
    assert "1 of 6 training examples stand in the evaluated split 'test' too" in str(caught.value)
    assert "(train.jsonl:6 is test.jsonl:1)" in str(caught.value)
    assert "allow_leaks=('test',), which leaves them out of training" in str(caught.value)
    found = load_splits(data, conversation, allow_leaks=("test",))
    assert (found.repeated, found.leaked) == (1, 2)
    assert [example.id for example in found.examples["train"]] == ["row-0", "row-1", "row-2"]


LONG = "the card was charged twice on the same evening at the station of {place}, and nobody answers the telephone"


def asked(name: str, question: str, answer: str) -> dict:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": name, "language": "en", "messages": messages}


def test_near_copies_are_found_within_and_between_splits(tmp_path: Path) -> None:
    test = [asked("t", LONG.format(place="Oslo"), "Call us."), asked("u", LONG.format(place="Bern")[::-1], "Wait.")]
    train = [
        *rows(3),
        asked("copy", LONG.format(place="OSLO") + "!", "call  us."),  # of a test example
        asked("answer", LONG.format(place="Oslo") + "?", "Write us."),  # the same question, another answer
        asked("a", "x" + LONG[::-1] * 2, "No."),
        asked("b", "y" + LONG[::-1] * 2, "No."),  # of another training example
    ]
    data = splits(tmp_path, train=train, validation=rows(2, 50), test=test)
    with pytest.raises(UserError, match=r"1 of 7 training examples .*train.jsonl:4 is test.jsonl:1"):
        load_splits(data, conversation)
    found = load_splits(data, conversation, allow_leaks=("test",))
    assert [example.id for example in found.examples["train"]] == ["row-0", "row-1", "row-2", "answer", "a", "b"]
    assert found.leaked == 1
    near = {(one.split, one.of): one for one in found.near}
    between = near["train", "test"]
    assert (between.examples, between.same_answer) == (2, 1)
    assert [pair[:2] for pair in between.shown] == [("copy", "t"), ("answer", "t")]
    assert 0.8 <= between.shown[0][2] <= 1
    within = near["train", "train"]
    assert (within.examples, within.same_answer, [pair[:2] for pair in within.shown]) == (
        2,
        1,
        [("b", "a"), ("answer", "copy")],
    )
    assert between.looked_at == 7 + 2


def test_an_instruction_around_every_text_makes_no_copies(tmp_path: Path) -> None:
    def given(names: range, about: str) -> list[dict]:
        text = "{about} {name}: is that good, bad or neither? Say one word, and nothing else, whatever the text says."
        return [asked(f"{about}{name}", text.format(about=about, name=name), "good") for name in names]

    data = splits(tmp_path, train=given(range(40), "Tweet"), validation=given(range(40, 50), "Tweet"),
                  test=given(range(50, 60), "Tweet"), news=given(range(12), "Headline"))  # fmt: skip
    assert not load_splits(data, conversation).near
    copied = splits(tmp_path, train=[*given(range(40), "Tweet"), asked("x", given(range(55, 56), "tweet")[0]["messages"]
                    [0]["content"] + " ", "Good")], validation=given(range(40, 50), "Tweet"),
                    test=given(range(50, 60), "Tweet"))  # fmt: skip
    with pytest.raises(UserError, match=r"1 of 41 training examples .*train.jsonl:41 is test.jsonl:6"):
        load_splits(copied, conversation)


def test_few_letters_that_are_left_of_a_text_make_no_copy(tmp_path: Path) -> None:
    def given(split: str, count: int) -> list[dict]:
        return [asked(f"{split}{n}", f"{split}: what does it cost {n}?", "It costs 4.") for n in range(count)]

    data = splits(tmp_path, train=given("train", 24), validation=given("validation", 8), test=given("test", 10))
    assert load_splits(data, conversation).leaked == 0


def test_a_near_copy_in_validation_is_an_error_where_it_is_scored(tmp_path: Path) -> None:
    scored, chosen_by = (asked(name, LONG.format(place=name), "Call us.") for name in ("Oslo", "Bern"))
    data = splits(tmp_path, train=rows(3), validation=[chosen_by], test=[scored])
    with pytest.raises(UserError, match="1 of 1 validation examples stand in the evaluated split 'test' too, or near"):
        load_splits(data, conversation)


def test_near_copies_stay_together_where_one_source_is_divided(tmp_path: Path) -> None:
    words = [" ".join(str(n * n * k + n) for k in range(20)) for n in range(3, 23)]
    groups = [[asked(f"{n}-{k}", f"{words[n]} {'abc'[k]}", "Yes.") for k in range(3)] for n in range(20)]
    path = write_rows(tmp_path / "all.jsonl", [row for group in groups for row in group])
    found = load_splits(path, conversation)
    for number in range(20):
        places = {s for s, examples in found.examples.items() for e in examples if e.id.startswith(f"{number}-")}
        assert len(places) == 1, places
    assert {(one.split, one.of) for one in found.near} <= {(s, s) for s in ("train", "validation", "test")}
    assert sum(one.examples for one in found.near) == 40


def with_system(given: list[dict], text: str = "Policy {number}.") -> list[dict]:
    for number, row in enumerate(given):
        row["messages"].insert(0, {"role": "system", "content": text.format(number=number)})
        row["messages"][1]["content"] = "What does a parcel cost?"
    return given


def test_a_document_in_the_system_message_tells_rows_apart(tmp_path: Path) -> None:
    data = splits(tmp_path, train=with_system(rows(5))[:3], validation=rows(1, 50), test=with_system(rows(5))[3:])
    found = load_splits(data, conversation)
    assert (found.repeated, found.leaked, len(found.examples["train"])) == (0, 0, 3)
    data = splits(tmp_path, train=with_system(rows(3), "Be kind."), validation=rows(1, 50), test=rows(1, 60))
    assert load_splits(data, conversation).repeated == 0  # the answers differ
    leaked = splits(
        tmp_path,
        train=[*rows(1), *with_system(rows(3, 1), "Be kind.")],
        validation=rows(1, 50),
        test=with_system(rows(1, 60), "Be kind."),
    )
    assert load_splits(leaked, conversation).leaked == 3  # the question stands there, with another answer


def test_a_validation_row_that_is_scored_too_is_an_error(tmp_path: Path) -> None:
    shared = [*rows(4, 50), {**rows(1, 60)[0], "id": "kept"}]
    data = splits(tmp_path, train=rows(3), validation=shared, test=[*rows(2, 70), *rows(4, 50)], other=rows(1, 60))
    with pytest.raises(UserError) as caught:
        load_splits(data, conversation, limit=1)
    text = str(caught.value)
    assert "4 of 5 validation examples stand in the evaluated split 'test' too" in text
    places = (
        "validation.jsonl:1 is test.jsonl:3, validation.jsonl:2 is test.jsonl:4, validation.jsonl:3 is test.jsonl:5"
    )
    assert f"({places}, ...)" in text
    assert "1 of 5 validation examples stand in the evaluated split 'other' too" in text
    assert "(validation.jsonl:5 is other.jsonl:1)" in text
    assert "allow_leaks=('other',)" in text
    with pytest.raises(UserError, match="'other'"):
        load_splits(data, conversation, allow_leaks=("test",))
    assert len(load_splits(data, conversation, allow_leaks=("test", "other")).examples["validation"]) == 5


def test_a_question_with_another_answer_and_two_tests_of_one_file_are_no_leak(tmp_path: Path) -> None:
    other = rows(1, 50)
    other[0]["messages"][1]["content"] = "Nothing."
    data = splits(tmp_path, train=rows(3), validation=rows(1, 50), test=other)
    assert load_splits({**data, "again": data["test"]}, conversation).leaked == 0


def test_every_turn_of_the_agent_is_an_example() -> None:
    row = rows(1)[0]
    row["messages"] += [{"role": "user", "content": "And abroad?"}, {"role": "assistant", "content": "More."}]
    first, second = conversation(row, system="You help.")
    assert [m["role"] for m in second.prompt] == ["system", "user", "assistant", "user"]
    assert (first.id, second.id, second.completion) == ("row-0", "row-0#2", "More.")


def test_references_that_are_one_text_are_named(tmp_path: Path) -> None:
    given = splits(tmp_path, train=rows(1), validation=rows(1, 50), test=rows(1, 60))
    with pytest.raises(UserError, match=r"train.jsonl:1: references of 'row-0' must be a tuple of texts, not 'one'"):
        load_splits(given, lambda row: [replace(example, references="one") for example in conversation(row)])


def test_a_function_gives_rows_of_any_form() -> None:
    def films() -> list[dict[str, Any]]:
        return [{"id": "1", "year": 1961}, {"id": "2"}]

    assert [(row.place, row.values["id"]) for row in read_rows(films)] == [("films:1", "1"), ("films:2", "2")]
    whole, part = list(read_rows(films)), list(read_rows(films))[:1]
    assert fingerprint(films, whole) == fingerprint(films, whole) != fingerprint(films, part)
    with pytest.raises(UserError, match="nothing holds no rows"):
        list(read_rows(nothing))


def fingerprint(source: Source, given: list[Row]) -> str:
    found = Fingerprint(source)
    for row in given:
        found.add(row)
    return str(found)


def nothing() -> list[dict[str, Any]]:
    return []
