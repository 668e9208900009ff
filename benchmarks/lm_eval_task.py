"""lm-evaluation-harness on an exported folder: the same accuracy as the run's, by a stranger's code.

    python benchmarks/lm_eval_task.py RUN --method lora --split topics --lm-eval VENV/bin/lm_eval

The texts of a split from which the model chooses are written as a local task of multiple choice, which the harness
(`pip install lm-eval`, 0.4.13) runs on `RUN/lora/merged` with that folder's own chat template. What it counts as right
must be what the run counted, example by example; exit code 1 says that it is not. A run that corrects likelihoods by
what it saw on the validation split ("prior" in its `choosing.json`) counts others as right: take another split.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import measure  # noqa: F401  quiets the libraries before they are imported

from workbench.data import Example
from workbench.errors import UserError
from workbench.evaluation import read_predictions
from workbench.run.folder import RunFolder
from workbench.run.prepared import prepare_run
from workbench.run.scoring import read_calibrations

TASK = """\
task: workbench_split
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list:
  - metric: acc
"""


def main() -> None:
    """Run the harness, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--method", default="lora", help="with a merged checkpoint (default: lora)")
    parser.add_argument("--split", required=True, help="an evaluated split of choices")
    parser.add_argument("--lm-eval", default="lm_eval", help="the harness's command (default: lm_eval)")
    arguments = parser.parse_args()
    folder = RunFolder.open(arguments.run)
    job = prepare_run(folder)
    trial = folder.trial(arguments.method, folder.options.seed)
    examples = [example for example, _ in job.evaluated[arguments.split]]
    if not all(example.choices and [m["role"] for m in example.prompt] == ["system", "user"] for example in examples):
        raise UserError(f"{arguments.split} is no split of choices with a system message and a question")
    found = harness(arguments.lm_eval, trial.merged, examples)
    known = {one.id: one for one in read_predictions(trial.path) if one.split == arguments.split}
    asked = {example.task for example in examples}
    calibrated = {task for task, how in read_calibrations(trial).items() if how.summary().get("prior")} & asked
    pairs = [
        (known[example.id].prediction == example.completion, right)
        for example, right in zip(examples, found, strict=True)
    ]
    ours, theirs = (sum(one) / len(pairs) for one in zip(*pairs, strict=True))
    same = sum(a == b for a, b in pairs)
    print(f"accuracy[{arguments.split}]: the run {ours:.2%}, lm-evaluation-harness {theirs:.2%}, of {len(pairs)} texts")
    print(f"the same verdict on {same} of {len(pairs)}")
    if calibrated:
        print(f"the run corrects likelihoods by a prior: {', '.join(sorted(calibrated))}; the harness does not")
    raise SystemExit(0 if same == len(pairs) else 1)


def harness(command: str, checkpoint: Path, examples: Sequence[Example]) -> list[bool]:
    """Of each text, whether the harness counts the checkpoint's answer as right."""
    (system,) = {example.prompt[0]["content"] for example in examples}
    with tempfile.TemporaryDirectory() as beside:
        rows = Path(beside, "rows.jsonl")
        values = [
            {"text": e.prompt[1]["content"], "choices": list(e.choices), "answer": list(e.choices).index(e.completion)}
            for e in examples
        ]
        rows.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
        Path(beside, "task.yaml").write_text(TASK.format(rows=rows), encoding="utf-8")
        subprocess.run(
            [
                command, "--model", "hf", "--model_args", f"pretrained={checkpoint.resolve()},dtype=float32",
                "--tasks", "workbench_split", "--include_path", beside, "--apply_chat_template",
                "--system_instruction", system, "--device", "cpu", "--batch_size", "1", "--log_samples",
                "--output_path", beside,
            ],
            check=True,
        )  # fmt: skip
        (samples,) = Path(beside).rglob("samples_*.jsonl")
        told = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
        return [bool(one["acc"]) for one in sorted(told, key=lambda one: one["doc_id"])]


if __name__ == "__main__":
    main()
