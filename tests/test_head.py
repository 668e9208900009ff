"""A head of classes: trained with every method, asked like any other model, shipped as transformers' classifier."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from sklearn import metrics as sk
from transformers import AutoModelForSequenceClassification, pipeline

from test_decode import config
from tiny import KINDS, make_model, make_tokenizer, recipe_text, write_rows
from workbench.data import Example, choice
from workbench.data.examples import together
from workbench.data.labels import Labels, labels_of
from workbench.data.render import classifying, make_renderer
from workbench.errors import UserError
from workbench.evaluation import Prediction, find_metric, read_predictions
from workbench.evaluation.several import fit_thresholds
from workbench.export import FreshProcess
from workbench.generation import context
from workbench.generation.classifier import Classifier, padded
from workbench.generation.sampling import Sampling
from workbench.methods import NotMergeable, find_method, known_methods, method_and_head
from workbench.models import class_logits, head_of, load_classifier
from workbench.recipe import load_recipe
from workbench.run.__main__ import main
from workbench.run.api import load_run
from workbench.run.entries import entries_of
from workbench.run.export import export_method
from workbench.run.folder import RunFolder, TrialFolder
from workbench.run.method_trial import read_labels, run_method
from workbench.run.prepare import Job, prepare
from workbench.run.saved import open_saved
from workbench.run.tuned import load_tuned

SENTIMENTS = ("negative", "neutral", "positive")
WORDS = ("loss", "meeting", "gain")
LABELS = Labels({"": SENTIMENTS})
TEXTS = ["Loss again?", "A gain of 12% in the quarter, and more to come.", "好", "Meeting on Monday, as announced."]

RECIPE = """
from dataclasses import replace
from workbench.data import choice
from workbench.evaluation.baselines import tfidf

SENTIMENTS = ("negative", "neutral", "positive")

def sentiment(row):
    return [choice(row, row["text"], SENTIMENTS, row.get("label"))]

def both(row):
    answer = ("yes", "no")[row["id"].endswith("1")] if "label" in row else None
    other = choice(row, row["text"] + " Good?", ("yes", "no"), answer, task="good")
    return [choice(row, row["text"], SENTIMENTS, row.get("label"), task="sentiment"), other]

def several(row):
    said = [n for n, word in zip(SENTIMENTS, ("loss", "meeting", "gain")) if word in row["text"]]
    said += ["long"] * ("1" in row["text"])
    return [choice(row, row["text"], (*SENTIMENTS, "long", "never"), said)]

recipe = replace(recipe, data={s: recipe.data[s] for s in ("train", "validation", "test")}, row_to_examples=ASKED,
    metrics=("accuracy", "macro_f1"), primary_metric="accuracy", head=HEAD, methods=("untuned", "lora"),
    inference_examples=ASKED, monitoring=None)
"""


def write_texts(folder: Path) -> None:
    """Rows whose class is a word."""
    for split, count in (("train", 24), ("validation", 9), ("test", 12)):
        rows = [
            {"id": f"{split}{n}", "text": f"{split} {WORDS[n % 3]} {n}", "label": SENTIMENTS[n % 3]}
            for n in range(count)
        ]
        write_rows(folder / f"{split}.jsonl", rows)


def write_checkpoint(folder: Path, kind: str) -> Path:
    path = folder / f"tiny-{kind}"
    make_model(kind).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


def write_recipe(folder: Path, checkpoint: Path, head: str, asked: str = "sentiment") -> Path:
    path = folder / "classes.py"
    text = RECIPE.replace("HEAD", head).replace("ASKED", asked)
    path.write_text(recipe_text(checkpoint, folder) + text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Checkpoints and their recipe, made when they are first asked for."""
    folder = tmp_path_factory.mktemp("classes")
    write_texts(folder)

    def of(kind: str) -> Path:
        there = folder / f"tiny-{kind}"
        checkpoint = there if there.is_dir() else write_checkpoint(folder, kind)
        return write_recipe(folder, checkpoint, '"classes"')

    return of


def carried(recipe: Path, name: str, bits: int, out: Path, process: FreshProcess) -> tuple[Job, Any, TrialFolder]:
    """A method with a head, trained, scored, saved and exported."""
    job = prepare(load_recipe(recipe), methods=[name], bits=bits)
    job = job.of(job.tuned[0])
    folder = TrialFolder(out)
    return job, run_method(job, find_method(name), 0, {}, folder, process), folder


# Every method on one architecture, and one method on every architecture and at every precision.
CELLS = [
    *(("llama", name, 32) for name, method in known_methods().items() if method.trains),
    *((kind, "lora", 32) for kind in KINDS if kind != "llama"),
    *(("gpt2", name, 32) for name in ("full", "prompt", "prefix", "houlsby")),
    *(("llama", name, bits) for name in ("lora", "prefix") for bits in (16, 4)),
    ("llama", "ia3", 8),
]


@pytest.mark.parametrize(("kind", "name", "bits"), CELLS)
def test_it_is_trained_saved_and_shipped(
    kind: str, name: str, bits: int, made: Callable[[str], Path], tmp_path: Path, process: FreshProcess
) -> None:
    job, record, folder = carried(made(kind), name, bits, tmp_path / "out", process)
    method, labels = find_method(name), job.head.labels
    assert labels is not None
    assert record.warning is None or bits < 16
    assert (record.method, record.head, record.tuned_by) == (name, "classes", None)
    if bits == 32:
        assert record.validation_loss_as_shipped == pytest.approx(record.validation_loss_as_trained, abs=1e-3)
    known = job.mergeability[name]
    assert record.export.merged == (not isinstance(known, NotMergeable)), record.export.reason
    answers = read_predictions(folder.path)
    assert [set(answer.choices) for answer in answers] == [set(SENTIMENTS)] * 12
    drawn = head_of(job.head.load(job.checkpoint.path, 32, seed=0)).weight
    shown = answers[0].prompt
    if not method.trains_base:
        weights = load_file(folder.adapter / "adapter_model.safetensors")
        (head,) = (tensor for key, tensor in weights.items() if key.endswith("score.weight"))
        assert head.dtype == torch.float32
        assert not torch.equal(head, drawn), "the head was not trained"
        saved = open_saved(job, method, folder, known)
        tuned: Any = saved.model
        assert not [n for n, m in tuned.named_modules() if isinstance(m, BaseTunerLayer) and "score" in n]
        if bits == 32:  # as anybody loads it
            more = {"num_labels": 3, "pad_token_id": job.renderer.tokenizer.pad_token_id}
            base = AutoModelForSequenceClassification.from_pretrained(job.checkpoint.path, **more)
            stock = PeftModel.from_pretrained(base, folder.adapter).eval()
            ids = torch.tensor([job.renderer.tokens(shown)])
            with torch.inference_mode():
                found = stock(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
                mine = class_logits(tuned, ids, torch.ones_like(ids))
            assert torch.allclose(found, mine, rtol=1e-4, atol=1e-4)
    if record.export.merged:
        proof = record.export
        assert proof.greedy_agreement == 1.0
        assert proof.base_logit_difference > 100 * proof.max_abs_logit_difference
        classify = pipeline("text-classification", model=str(folder.merged), device="cpu")
        prompts = [answer.prompt for answer in answers]
        found = [one["label"] for one in classify(prompts, add_special_tokens=False, batch_size=5)]
        plain = load_classifier(folder.merged, 32)
        asked = Classifier(plain, job.renderer, labels)
        prompt_ids = [asked.renderer.tokens(prompt) for prompt in prompts]
        if name not in ("prompt", "ptuning"):
            logits = class_logits(plain, *padded(prompt_ids, job.renderer.tokenizer.pad_token_id))
            assert found == [SENTIMENTS[index] for index in logits.argmax(dim=1).tolist()]
        likeliest = [max(answer.choices, key=answer.choices.__getitem__) for answer in answers]
        if record.choosing[""]["by"] != "calibrated":
            assert found == likeliest


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_token_is_found_whatever_pads_a_text(kind: str, tmp_path: Path) -> None:
    model = load_classifier(write_checkpoint(tmp_path, kind), 32, LABELS, pad_id=5, seed=1)
    texts = [[7, 8, 9], [10, 11, 12, 13, 14, 5, 16, 17], [20, 5]]  # one that ends with the padding token
    ids, mask = padded(texts, 5)
    together = class_logits(model, ids, mask)
    for text, logits in zip(texts, together, strict=True):
        one = torch.tensor([text])
        assert torch.allclose(class_logits(model, one, torch.ones_like(one))[0], logits, atol=1e-5)
    with torch.inference_mode():
        assert torch.allclose(model(input_ids=ids[:2], attention_mask=mask[:2]).logits, together[:2], atol=1e-5)
    assert model.config.id2label == dict(enumerate(SENTIMENTS))
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_same_seed_draws_the_same_head_whatever_holds_the_rest(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, "llama")

    def drawn(seed: int, bits: int = 32) -> torch.Tensor:
        torch.rand(3)
        head = head_of(load_classifier(path, bits, LABELS, 0, seed))
        assert type(head) is torch.nn.Linear
        return head.weight

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))
    for bits in (16, 8, 4):
        assert torch.equal(drawn(3), drawn(3, bits))


def test_likelihoods_are_those_of_the_task() -> None:
    labels = Labels({"sentiment": SENTIMENTS, "good": ("yes", "no"), "true": ("no", "yes")})
    assert labels.names[3:] == ["good/yes", "good/no", "true/no", "true/yes"]
    renderer = classifying(make_renderer(make_tokenizer()))
    asked = [[{"role": "user", "content": text}] for text in TEXTS]

    class Fixed(Classifier):
        def _logits(self, prompts: Any, title: str) -> torch.Tensor:
            return torch.arange(7.0).repeat(len(prompts), 1) ** 2

    model = Fixed(torch.nn.Linear(1, 1), renderer, labels)
    found = model.loglikelihood(asked, [("no", "yes")] * 4, task="good")
    expected = torch.log_softmax(torch.tensor([16.0, 9.0]).double(), dim=0)
    assert found[0].logprobs == pytest.approx(expected.tolist())
    assert found[0].tokens.tolist() == [1, 1]
    assert model.loglikelihood(asked, [("yes", "no")] * 4, task="true")[1].logprobs[1] == pytest.approx(-11, abs=1e-3)
    with pytest.raises(UserError, match="not for the task 'topic'"):
        model.loglikelihood(asked, [("yes", "no")] * 4, task="topic")
    with pytest.raises(UserError, match="'perhaps': not among the classes yes, no"):
        model.loglikelihood(asked, [("yes", "perhaps")] * 4, task="good")
    with pytest.raises(UserError, match="writes no text"):
        model.generate(asked, Sampling())


def test_padding_is_never_what_a_prompt_ends_with() -> None:
    def padding(**tokens: Any) -> str:
        tokenizer = make_tokenizer()
        for name, value in tokens.items():
            setattr(tokenizer, name, value)
        renderer = make_renderer(tokenizer)
        found = classifying(renderer).tokenizer
        assert renderer.tokenizer.pad_token == tokens.get("pad_token", "<|endoftext|>"), "the caller's was changed"
        assert found.padding_side == "right"
        return str(found.pad_token)

    assert padding() == "<|endoftext|>"
    assert padding(pad_token=None) == "<|im_end|>"  # as of GPT-2: the end of a turn
    ends = "{% for m in messages %}{{ m['content'] + '<|im_end|>' }}{% endfor %}"
    assert padding(pad_token="<|im_end|>", chat_template=ends) == "<|endoftext|>"


BOTH = "('likelihood', 'classes')"


def test_both_heads_stand_in_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_texts(tmp_path)
    path = write_recipe(tmp_path, write_checkpoint(tmp_path, "gpt2"), BOTH, "both")
    out = tmp_path / "out"
    assert main([str(path), "--bits", "32", "--out", str(out)]) == 0
    assert "| lora-classes" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    runs = {record["method"]: record for record in results["runs"]}
    assert list(runs) == ["untuned", "lora", "lora-classes"]
    assert [runs[name].get("head") for name in runs] == [None, None, "classes"]
    assert runs["lora-classes"]["tuned_by"] == "lora"
    assert all(record["status"] == "done" for record in runs.values()), runs
    assert all(record["export"]["merged"] == (name != "untuned") for name, record in runs.items())
    assert all(record["forecast"]["evaluation"] > 0 for record in runs.values())
    assert len(results["comparisons"]) == 3
    for row in map(json.loads, (out / "lora-classes" / "predictions.jsonl").open()):
        assert row["scores"]["choices"].keys() == set(SENTIMENTS if row["id"].endswith("sentiment") else ("yes", "no"))
        assert row["scores"]["reference_tokens"] == 1
    readme = (out / "lora-classes" / "merged" / "README.md").read_text()
    assert 'pipeline("text-classification"' in readme
    assert "sentiment/negative" in readme
    # Opened later, it says what it said, and writes nothing.
    tuned = load_tuned(RunFolder.open(out), "lora-classes")
    test = [json.loads(line) for line in (tmp_path / "test.jsonl").open()]
    asked = [example for row in test for example in tuned.recipe.row_to_examples(row)]  # type: ignore[operator]
    before = read_predictions(out / "lora-classes")
    for answer, known in zip(tuned.choose(asked), before, strict=True):
        assert (answer.id, answer.prediction) == (known.id, known.prediction)
        assert answer.choices == pytest.approx(known.choices, abs=1e-4)
    assert tuned.classify({"id": "new", "text": "loss"}).keys() == {"sentiment", "good"}
    with pytest.raises(UserError, match="writes no text"):
        tuned.generate([{"role": "user", "content": "Hello"}])
    assert load_run(out).predictions("lora-classes") == before
    exported = export_method(RunFolder.open(out), "lora-classes", tmp_path / "shipped")
    assert exported.merged, exported.reason
    assert main(["--resume", str(out), "--methods", "ia3-classes"]) == 0
    names = [record["method"] for record in json.loads((out / "results.json").read_text())["runs"]]
    assert names == ["untuned", "lora", "lora-classes", "ia3-classes"]
    assert main([str(path), "--methods", "full", "--bits", "32", "--check"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("full-classes") == 3


def test_names_of_entries(tmp_path: Path) -> None:
    write_texts(tmp_path)
    recipe = load_recipe(write_recipe(tmp_path, tmp_path, BOTH))

    def names(*methods: str, head: Any = ("likelihood", "classes")) -> list[str]:
        return [entry.name for entry in entries_of(replace(recipe, methods=methods, head=head))]

    assert names("untuned", "lora") == ["untuned", "lora", "lora-classes"]
    assert names("untuned", "lora", head="classes") == ["untuned", "lora"]
    assert names("lora-classes", "lora", "lora-classes") == ["lora-classes", "lora"]
    assert method_and_head("lora-likelihood") == (find_method("lora"), "likelihood")
    with pytest.raises(UserError, match="did you mean lora"):
        names("lora-clases")
    with pytest.raises(UserError, match="untuned-classes: it trains no head"):
        names("untuned-classes")
    with pytest.raises(UserError, match="lora-classes: the recipe's head is likelihood"):
        names("lora-classes", head="likelihood")
    with pytest.raises(UserError, match="unknown head 'clases'; did you mean classes"):
        replace(recipe, head="clases")
    with pytest.raises(UserError, match="head is empty"):
        replace(recipe, head=())


def test_what_a_head_can_not_learn_is_said_before_training() -> None:
    def example(number: int, choices: tuple[str, ...], task: str = "") -> Any:
        return choice({"id": f"e{number}"}, "Which?", choices, choices[0], task=task)

    some = [example(0, ("a", "b")), example(1, ("b", "a"))]
    assert labels_of({"train": some, "validation": some, "test": some}).names == ["a", "b"]
    with pytest.raises(UserError, match=r"test: e2 chooses from a, c, and before that a, b: candidates are no classes"):
        labels_of({"train": some, "validation": some, "test": [example(2, ("a", "c"))]})
    with pytest.raises(UserError, match="train has no examples of 'new'"):
        labels_of({"train": some, "validation": some, "test": [example(3, ("a", "b"), "new")]})
    with pytest.raises(UserError, match="train: e4 has no choices"):
        labels_of({"train": [replace(some[0], id="e4", choices=())]})


def test_an_architecture_without_such_a_head_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM, CodeGenConfig

    path = tmp_path / "codegen"
    config = CodeGenConfig(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=256, rotary_dim=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    write_texts(tmp_path)
    assert main([str(write_recipe(tmp_path, path, BOTH)), "--check"]) == 2
    assert "transformers has no codegen model with such a head" in capsys.readouterr().err


def test_several_labels_at_once(tmp_path: Path, process: FreshProcess, capsys: pytest.CaptureFixture[str]) -> None:
    write_texts(tmp_path)
    path = write_recipe(tmp_path, write_checkpoint(tmp_path, "llama"), '"classes"', "several")
    path.write_text(
        path.read_text() + 'recipe = replace(recipe, metrics=("micro_f1", "macro_f1", "accuracy", "mcc"))\n'
    )
    assert main([str(path), "--check"]) == 2
    assert "leave untuned out" in capsys.readouterr().err
    _, record, folder = carried(path, "lora", 32, tmp_path / "out", process)
    assert record.metrics.keys() == {f"{n}{s}" for n in ("micro_f1", "macro_f1", "accuracy") for s in ("", "[test]")}
    assert record.export.merged, record.export.reason
    thresholds = record.choosing[""]["thresholds"]
    assert thresholds.keys() == {*SENTIMENTS, "long", "never"}
    answers = read_predictions(folder.path)
    for answer in answers:
        assert answer.right is not None
        assert answer.reference == ", ".join(answer.right)
        assert answer.chosen == tuple(n for n, log in answer.choices.items() if math.exp(log) > thresholds[n])
        assert answer.prediction == (", ".join(answer.chosen) or "(none)")
    classify = pipeline("text-classification", model=str(folder.merged), device="cpu", top_k=None)
    (scores,) = classify([answers[0].prompt], add_special_tokens=False)
    found = {one["label"]: one["score"] for one in scores}
    assert found == pytest.approx({name: math.exp(log) for name, log in answers[0].choices.items()}, abs=1e-4)
    assert "never 0.500" in (folder.merged / "README.md").read_text()
    kept = read_labels(folder)
    assert kept is not None
    assert (kept.names, kept.several) == ([*SENTIMENTS, "long", "never"], True)


def test_labels_are_scored_as_by_scikit_learn() -> None:
    random = np.random.default_rng(0)
    names = ("a", "b", "c")
    right, chosen = random.random((200, 3)) < 0.4, random.random((200, 3)) < 0.5

    def taken(row: Any) -> tuple[str, ...]:
        return tuple(name for name, one in zip(names, row, strict=True) if one)

    answers = [
        Prediction(
            id=str(number), split="test", prompt="", reference=together(taken(a)), prediction=together(taken(b)),
            nll=1.0, tokens=0, choices=dict.fromkeys(names, -1.0), right=taken(a), chosen=taken(b),
        )
        for number, (a, b) in enumerate(zip(right, chosen, strict=True))
    ]  # fmt: skip
    for average in ("micro", "macro"):
        expected = 100 * sk.f1_score(right, chosen, average=average)
        assert find_metric(f"{average}_f1").value(answers) == pytest.approx(expected)
    assert find_metric("accuracy").value(answers) == pytest.approx(100 * sk.accuracy_score(right, chosen))
    assert not find_metric("mcc").applies(answers[0])
    # The threshold of each label is the one that nothing beats.
    probabilities = random.random((200, 3)) * 0.5 + 0.3 * right
    for column, threshold in enumerate(fit_thresholds(probabilities, right)):
        scores = [sk.f1_score(right[:, column], probabilities[:, column] > t) for t in np.linspace(0, 1, 400)]
        assert sk.f1_score(right[:, column], probabilities[:, column] > threshold) >= max(scores) - 1e-9
    assert fit_thresholds(probabilities, np.zeros_like(right)) == [0.5] * 3


def test_what_a_row_with_labels_says() -> None:
    example = choice({"id": "1"}, "Which?", ("a", "b", "c"), ("c", "a"))
    assert (example.labels, example.completion) == (("a", "c"), "a, c")
    assert Example.from_json(example.to_json()) == example
    assert choice({"id": "1"}, "Which?", ("a", "b"), ()).labels == ()
    assert choice({"id": "1"}, "Which?", ("a", "b"), "a").labels is None
    with pytest.raises(ValueError, match="'d' is none of a, b"):
        choice({"id": "1"}, "Which?", ("a", "b"), ("a", "d"))
    mixed = [example, choice({"id": "2"}, "Which?", ("a", "b", "c"), "a")]
    with pytest.raises(UserError, match="one head has one loss"):
        labels_of({"train": mixed, "validation": mixed, "test": mixed})


@pytest.mark.parametrize(
    ("kind", "adapter"),
    [
        *((kind, "lora") for kind in KINDS),
        ("llama", "prefix"),
        ("gpt2", "prefix"),
        ("llama", "prompt"),
        ("gemma3", "prefix"),
    ],
)
def test_what_all_prompts_begin_with_is_read_once(
    kind: str, adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(context.READ_TOKENS, "cpu", 60)  # few rows together
    renderer = classifying(make_renderer(make_tokenizer()))
    base: Any = load_classifier(write_checkpoint(tmp_path, kind), 32, LABELS, renderer.tokenizer.pad_token_id)
    torch.manual_seed(0)
    model = get_peft_model(base, replace(config(adapter), task_type="SEQ_CLS")).eval()
    with torch.no_grad():
        head_of(model).weight.normal_()
    asked: list[Any] = [[{"role": "user", "content": f"The same in all: {text}"}] for text in TEXTS]
    classifier = Classifier(model, renderer, LABELS)
    together = classifier.loglikelihood(asked, [SENTIMENTS] * len(asked))
    for conversation, found in zip(asked, together, strict=True):
        (alone,) = classifier.loglikelihood([conversation], [SENTIMENTS])
        np.testing.assert_allclose(found.logprobs, alone.logprobs, rtol=1e-4, atol=1e-4)
