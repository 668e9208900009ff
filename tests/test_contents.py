"""What is said of the answers of a split."""

from workbench.data import Example
from workbench.data.contents import contents_of
from workbench.run.remarks import answers_remarks


def written(*answers: str) -> list[Example]:
    prompt = ({"role": "user", "content": "?"},)
    return [Example(id=str(number), prompt=prompt, completion=answer) for number, answer in enumerate(answers)]


def labelled(*labels: str, task: str = "mood") -> list[Example]:
    prompt = ({"role": "user", "content": "?"},)
    choices = tuple(dict.fromkeys(labels))
    shared = {"prompt": prompt, "choices": choices, "task": task}
    return [Example(id=str(number), completion=one, **shared) for number, one in enumerate(labels)]


def test_answers_are_counted() -> None:
    found = contents_of(written("Yes.", "Yes.", "No.", "...", "–", "No.", "Yes."))
    assert (found.written, found.distinct, found.blank) == (7, 4, 2)
    assert (found.commonest, found.commonest_count) == ("Yes.", 3)
    assert answers_remarks(found, found) == [
        "2 of 7 answers have no letter and no digit",
        "3 of 7 answers are the same: 'Yes.'",
    ]
    assert contents_of(written("a", "b")).commonest_count == 0
    assert not answers_remarks(contents_of(written("a", "b", "c")), found)


def test_labels_are_counted_and_what_is_lopsided_or_new_is_told() -> None:
    train, test = (
        contents_of(labelled(*["good"] * 19, "bad")),
        contents_of(labelled("bad", "good", "odd", *["good"] * 3)),
    )
    assert train.labels == {"mood": {"good": 19, "bad": 1}}
    assert answers_remarks(train, train) == [
        "95% of the answers of 'mood' are 'good': whoever always says so is right as often"
    ]
    assert answers_remarks(test, train) == ["no training example of 'mood' has the label 'odd'"]
    many = contents_of(labelled(*map(str, range(60))))  # items of a shop are no classes
    assert many.labels == {}
