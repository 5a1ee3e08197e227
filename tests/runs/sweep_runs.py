"""What the tests of sweeps share: a plan and made-up run folders."""

import json

BASE = ["--task", "gaussian-bandit", "--algorithm", "maml", "--iterations", "3"]
GRID = ["--grid", "inner_lr=0.1,0.2", "outer-lr=0.01,0.02"]
NAMES = [f"inner_lr={inner},outer_lr={outer}" for inner in ("0.1", "0.2") for outer in ("0.01", "0.02")]


def report(mean, error=0.5, iteration=3, steps=1, **more):
    row = {"steps": [0, 1, 2], "mean": mean, "standard_error": [error] * 3}
    row |= {"gain_mean": [value - mean[0] for value in mean], "gain_standard_error": [0.0, 0.25, 0.5]}
    return {"iteration": iteration, "adaptation_steps_in_training": steps, "rows": {"adapted": row}} | more


def write_run(folder, found=None, iterations=3, split="test"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    rows = "".join(f"{i},{10 * (i + 1)}\n" for i in range(iterations))
    (folder / "metrics.csv").write_text("iteration,environment_steps\n" + rows)
    (folder / "timing.csv").write_text("iteration,seconds\n1,30.0\n3,60.0\n")
    if found:
        name = "evaluation.json" if split == "test" else f"evaluation-{split}.json"
        (folder / name).write_text(json.dumps(found))


class Fake:
    """A job that is done at the second look, and has begun with these members and ended those."""

    def __init__(self, words="", patience=1, begun=(), ended=()):
        self.words, self.patience, self.stopped = words, patience, 0
        self.begun, self.ended = begun.__contains__, ended.__contains__

    def done(self):
        self.patience -= 1
        return self.patience < 0

    def stop(self):
        self.stopped += 1
        self.patience = min(self.patience, 1)

    def last_words(self, name):
        return self.words
