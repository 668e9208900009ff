"""Choosing among 77 labels beside reading the prompts once, on one model in one process, in turns.

    python benchmarks/choices.py                  the untuned SmolLM2, and after some steps of LoRA (minutes, kept)
    python benchmarks/choices.py --steps 0        the untuned one only

Questions: what customers ask first in `data/finserve`, in 47 topics; 30 labels stand there that no question has. Labels
have 2 to 6 tokens. "Reading" is every prompt once, in parts of like length, with the output layer behind the last token
only: what any model that answers in one token would take. Beside it: reading when what all prompts begin with is read
once; choosing, the right label known (as validation and test do) and not (as a new text); and all labels to their end.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from measure import FINSERVE, OUT, draw_bars, machine, median, ratios, spread

from workbench.sources import SMOLLM2

TOPICS = {
    "account_closing": "closing an account",
    "account_fee": "account fee charged",
    "account_opening": "opening an account",
    "address_change": "change of address",
    "atm_error": "cash machine error",
    "atm_fee": "cash machine fee",
    "bereavement": "bereavement in the family",
    "card_activation": "card activation",
    "card_declined": "card payment declined",
    "card_delivery": "card not delivered yet",
    "card_double_charge": "card payment charged twice",
    "card_foreign_fee": "card fee abroad",
    "card_limits": "card spending limit",
    "card_lost_stolen": "card lost or stolen",
    "card_pin": "card PIN forgotten",
    "card_replacement": "card damaged or worn",
    "card_unknown_charge": "card payment not recognised",
    "cash_deposit": "cash deposit",
    "coin_counting": "counting of coins",
    "complaint": "complaint about service",
    "credit_card_late": "credit card payment late",
    "credit_card_limit": "credit card limit",
    "credit_card_payment": "credit card bill payment",
    "direct_debit": "direct debit returned",
    "joint_account": "joint account",
    "loan_application": "loan application",
    "loan_early_repayment": "loan repaid early",
    "loan_missed": "loan payment missed",
    "login_password": "login password forgotten",
    "mobile_payment": "mobile phone payment",
    "mortgage": "mortgage rate and term",
    "name_change": "change of name",
    "new_phone": "change of phone",
    "overdraft": "overdraft interest",
    "safe_deposit_box": "safe deposit box",
    "savings": "savings account interest",
    "scam": "scam or phishing message",
    "standing_order": "standing order change",
    "statements": "statement of account",
    "student_account": "student account",
    "term_deposit": "term deposit ended",
    "transfer_domestic": "transfer within the country",
    "transfer_instant": "transfer within seconds",
    "transfer_international": "transfer to another country",
    "transfer_limit": "transfer limit raised",
    "transfer_recall": "transfer called back",
    "travel_insurance": "travel insurance cover",
}
OTHERS = (
    "account blocked by the bank", "account for a club", "account for a child", "app does not start",
    "app in another language", "branch opening hours", "card contactless payment", "card expiry date",
    "card design and colour", "card refund not received", "card withdrawn by the machine", "cheque deposit",
    "cheque stopped", "credit card cash advance", "direct debit stopped", "exchange rate",
    "exchange of foreign cash", "gold and coins", "home insurance claim", "identity check failed",
    "investment account", "loan paused for some months", "pension plan", "power of attorney",
    "standing order missed", "tax certificate missing", "transfer to a wrong account", "transfer still pending",
    "transfer receipt", "virtual card number",
)  # fmt: skip
LABELS = (*TOPICS.values(), *OTHERS)
READING, SHARED = "reading", "reading, beginning shared"
CHOSEN, NEW, ALL = "choosing, right one known", "choosing, new texts", "all labels"
BATCH, RATE = 8, 1e-3
Measured = dict[str, float]


def questions(split: str) -> list[Any]:
    """What customers ask first, with its label."""
    from workbench.data import choice

    rows = [json.loads(line) for line in (FINSERVE / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        choice({"id": row["id"]}, row["messages"][0]["content"], LABELS, TOPICS[row["topic"]], system="Topic")
        for row in rows
    ]


def tuned(path: Path, renderer: Any, steps: int) -> Path:
    """A checkpoint that has learned the labels for so many steps; kept for the next time."""
    import torch

    from workbench.methods import find_method
    from workbench.models import attach, fast_training, load_model
    from workbench.training.loss import RightPadding, labelled, negative_log_likelihoods

    folder = OUT / f"choices-{steps}"
    if (folder / "config.json").is_file():
        return folder
    torch.manual_seed(0)
    base, settings = load_model(path, 32, training=True), {"r": 32, "lora_alpha": 64}
    model: Any = attach(base, find_method("lora"), settings, [1, 2, 3], 0, steps)
    rendered = [item for item in renderer.render_together(questions("train")) if not isinstance(item, ValueError)]
    rows = sorted(rendered, key=lambda item: item.length)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    drawn = random.Random(0)
    model.train()
    with fast_training(model):
        for _ in range(steps):
            start = drawn.randrange(len(rows) - BATCH)
            batch: Any = RightPadding(0)([labelled(item) for item in rows[start : start + BATCH]])
            losses, _ = negative_log_likelihoods(model, **batch)
            losses.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            decay.step()
    merged = model.merge_and_unload()
    merged.save_pretrained(folder)
    renderer.tokenizer.save_pretrained(folder)
    return folder


def read_once(model: Any, prompts: Sequence[Sequence[int]]) -> None:
    """Read every prompt, those of like length together."""
    import torch

    from workbench.generation.context import open_context, parts_of, tokens_at_once
    from workbench.models import output_of

    ordered = sorted(prompts, key=lambda ids: -len(ids))
    with torch.inference_mode():
        for part in parts_of(list(map(len, ordered)), tokens_at_once(model)):
            some = ordered[part]
            ids = torch.tensor([[0] * (len(some[0]) - len(one)) + list(one) for one in some])
            mask = torch.tensor([[0] * (len(some[0]) - len(one)) + [1] * len(one) for one in some])
            with output_of(model, lambda hidden: hidden[:, -1:], hidden=False):
                open_context(model, len(some)).read(ids, mask)


def measure(name: str, model: Any, renderer: Any, count: int, rounds: int) -> None:
    """Print the time of each for one model."""
    from workbench.data import Example
    from workbench.evaluation import choose, find_metric, fit_calibrations
    from workbench.generation.engine import LocalModel
    from workbench.models import fast_evaluation

    local = LocalModel(model, renderer)
    asked: list[Example] = (questions("test") + questions("test_unseen") + questions("train")[::5])[:count]
    new = [Example(id=one.id, prompt=one.prompt, completion="", choices=one.choices) for one in asked]
    prompts = [ids for _, ids in renderer.prompts([one.prompt for one in asked])]
    validation = questions("validation")
    with fast_evaluation(model):
        began = time.perf_counter()
        calibrations, _ = fit_calibrations(local, validation, [], find_metric("accuracy").value, "", prune=True)
        fitting = time.perf_counter() - began
        works: Mapping[str, Callable[[], Any]] = {
            READING: lambda: read_once(model, prompts),
            SHARED: lambda: local.loglikelihood([one.prompt for one in asked], [("yes",)] * len(asked)),
            CHOSEN: lambda: choose(local, asked, calibrations, "test", "", prune=True),
            NEW: lambda: choose(local, new, calibrations, "test", "", prune=True),
            ALL: lambda: choose(local, asked, calibrations, "test", ""),
        }
        found: dict[str, list[Measured]] = {what: [] for what in works}
        answers = {}
        for what, work in works.items():  # to warm up
            answers[what] = work()
        for _ in range(rounds):
            for what, work in works.items():
                began = time.perf_counter()
                work()
                found[what].append({"seconds": 1000 / len(asked) * (time.perf_counter() - began)})
    tell(name, found)
    unread = sum(len(one.bounds) for one in answers[CHOSEN]) / len(asked)
    same = sum(a.prediction == b.prediction for a, b in zip(answers[CHOSEN], answers[ALL], strict=True))
    fitted = calibrations[""]
    print(
        f"{name}: {fitted.by}{' under the constraint' if fitted.constrained else ''}, temperature "
        f"{fitted.temperature:.2f}, fitted to {fitted.fitted_on} of {len(validation)} "
        f"in {fitting:.1f} s; accuracy {find_metric('accuracy').value(answers[ALL]):.1f} %; the same choice {same} of "
        f"{len(asked)}; {unread:.1f} of {len(LABELS)} left unread"
    )


def tell(name: str, found: dict[str, list[Measured]]) -> None:
    """Print seconds and ratios, and draw them."""
    for what, measured in found.items():
        print(f"{name}, {what}: {median(measured, 'seconds'):.1f} s per 1,000 texts", end="")
        print(f", {spread(ratios(measured, found[READING], 'seconds'))} times reading" if what != READING else "")
    draw_bars(
        f"choices-{name}",
        f"77 labels, {name}",
        "seconds per 1,000 texts",
        {what: [one["seconds"] for one in found[what]] for what in found},
    )


def main() -> None:
    """Measure both."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default=SMOLLM2, metavar="NAME", help="checkpoint (default: SmolLM2-135M-Instruct)")
    p.add_argument("--questions", type=int, default=128, metavar="N", help="that are answered (default: 128)")
    p.add_argument("--steps", type=int, default=120, metavar="N", help="of tuning; 0 for none (default: 120)")
    p.add_argument("--rounds", type=int, default=3, metavar="N", help="turns that count (default: 3)")
    options = p.parse_args()

    from workbench.data.render import make_renderer
    from workbench.models import load_model, load_tokenizer
    from workbench.sources import fetch_checkpoint

    path = fetch_checkpoint(options.model).path
    renderer = make_renderer(load_tokenizer(path))
    tokens = [len(renderer.tokenizer(label)["input_ids"]) for label in LABELS]
    print(
        f"# {len(LABELS)} labels of {min(tokens)} to {max(tokens)} tokens with {options.model}, in float32\n{machine()}"
    )
    if options.steps:
        model = load_model(tuned(path, renderer, options.steps), 32).eval()
        measure(f"{options.steps} steps of LoRA", model, renderer, options.questions, options.rounds)
    measure("untuned", load_model(path, 32).eval(), renderer, options.questions, options.rounds)


if __name__ == "__main__":
    main()
