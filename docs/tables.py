"""The tables of the README and of pages in docs/, generated from registries and cases.

python docs/tables.py            # rewrites them between their markers
python docs/tables.py --check    # status 1 if that would change it
"""

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import metarl_jax as mrl
from metarl_jax.envs.brax_adapter import RUNNING_BACKENDS
from metarl_jax.envs.dynamics import FIELDS
from metarl_jax.keywords import descriptions
from metarl_jax.runs.config.flags import of_algorithms as flags_of_algorithms
from metarl_jax.runs.config.options import FLAG_NAMES

SUMMARY = 52
"""characters of an algorithm's line in the README; a longer one loses its last clauses"""


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in cells) + " |"


def _documented() -> Iterator[tuple[str, Any, str, list[str]]]:
    """Name, function, docstring and arXiv numbers of each registered algorithm."""
    for name in mrl.algorithms.names():
        function = mrl.algorithms.ALGORITHMS[name]
        text = inspect.getdoc(function) or ""
        yield name, function, text, re.findall(r"arXiv:(\d{4}\.\d{5})", text)


def algorithms() -> str:
    """One row per algorithm for the README: the first line of its module's docstring, and its paper."""
    rows = [_row("name", "what it is", "paper"), _row(*["---"] * 3)]
    for name, function, _, papers in _documented():
        module = inspect.getmodule(inspect.unwrap(function))
        line = (inspect.getdoc(module) or "").partition("\n")[0].rstrip(".")
        while len(line) > SUMMARY and len(clauses := re.split(r"(?=, |: )", line)) > 1:
            line = "".join(clauses[:-1])
        rows.append(_row(f"`{name}`", line, f"[{papers[0]}](https://arxiv.org/abs/{papers[0]})" if papers else ""))
    return "\n".join(rows)


def updates() -> str:
    """One row per algorithm for its page: the first line of its docstring, and its papers."""
    rows = [_row("name", "meta-update", "paper"), _row(*["---"] * 3)]
    for name, _, text, papers in _documented():
        links = ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in papers)
        rows.append(_row(f"`{name}`", text.split("\n\n")[0], links))
    return "\n".join(rows)


def own_options() -> str:
    """One line per algorithm: options and defaults that differ from those of `maml`."""
    usual, lines = mrl.algorithms.options("maml"), []
    for name, _, _, _ in _documented():
        own = [
            f"`{option}` ({value})"
            for option, value in mrl.algorithms.options(name).items()
            if usual.get(option, ()) != value
        ]
        lines += [f"* `{name}`: {', '.join(own)}"] if own else []
    return "\n".join(lines)


def _physics(card: mrl.envs.Card) -> str:
    engines = {"mujoco": "MuJoCo"}
    return " or ".join(dict.fromkeys(engines.get(name, "Brax") for name in card.backends)) or "pure JAX"


def environments() -> str:
    """One row per version of every registered family, from its card; what all versions share stands below."""
    header = ("name", "reward of a step; end", "tasks: train and test", "tasks: ood", "T", "physics")
    rows = [_row(*header), _row(*["---"] * len(header))]
    notes = []
    for family in mrl.envs.names():
        for version in mrl.envs.versions(family):
            card = mrl.envs.card(version)
            tasks = card.tasks + (f" ({card.finite} in all: train and test coincide)" if card.finite else "")
            rows.append(
                _row(f"`{version}`", card.formula, tasks, card.splits["ood"], str(card.horizon), _physics(card))
            )
        card = mrl.envs.card(family)
        options = ", ".join(f"`{name}` ({value})" for name, value in card.options.items())
        for other in card.versions[1:]:
            changed = mrl.envs.card(other)
            own = {k: v for k, v in changed.options.items() if v != card.options[k]}
            own |= {} if changed.horizon == card.horizon else {"horizon": changed.horizon}
            options += f"; in `@{other.partition('@')[2]}` " + ", ".join(f"`{k}` ({v})" for k, v in own.items())
        notes.append(
            f"* `{family}`. Observation: {card.observation}. Start: {card.start}. Options: {options}. "
            f"Source: {card.source}. Differences: {card.differences}"
        )
    return "\n".join([*rows, "", "Each family, with the options of its first version:", "", *notes])


def families() -> str:
    """One row per family, for the README."""
    rows = [_row("family", "hidden task"), _row("---", "---")]
    rows += [_row(f"`{family}`", mrl.envs.card(family).tasks) for family in mrl.envs.names()]
    return "\n".join(rows)


def knobs() -> str:
    """One row per knob of the dynamics: the array of the model that it scales on each backend."""
    rows = [_row("knob", *RUNNING_BACKENDS), _row("---", *["---"] * len(RUNNING_BACKENDS))]
    for knob, where in FIELDS.items():
        cells = [", ".join(f"`{path}`" for path in where.get(name, ())) or "refused" for name in RUNNING_BACKENDS]
        rows.append(_row(f"`{knob}`", *cells))
    return "\n".join(rows)


def options() -> str:
    """One row per option of the algorithms, those that most of them take first: meaning, algorithms, defaults."""
    rows = [_row("option", "meaning", "taken by", "default"), _row(*["---"] * 4)]
    every = mrl.algorithms.names()
    owners = {}
    for name in every:
        for option, default in mrl.algorithms.options(name).items():
            owners.setdefault(option, {})[name] = default
    for option, defaults in sorted(owners.items(), key=lambda item: -len(item[1])):
        structs = [mrl.algorithms.ALGORITHMS[name].options for name in defaults]
        texts = [descriptions(struct)[option] for struct in structs]
        missing = [name for name in every if name not in defaults]
        by = ", ".join(defaults) if len(defaults) <= len(missing) else f"all but {', '.join(missing)}"
        words = [" ".join(value) if isinstance(value, tuple) else str(value) for value in defaults.values()]
        usual = max(words, key=words.count)
        others = [f"{name}: {word}" for name, word in zip(defaults, words, strict=True) if word != usual]
        meaning = max(texts, key=texts.count).replace("``", "`")
        rows.append(_row(f"`{option}`", meaning, by if missing else "all", "; ".join([usual, *others])))
    return "\n".join(rows)


def flags() -> str:
    """The fields of `AlgorithmConfig`: the options of algorithms that fit a command line."""
    lines = []
    for option, flag in flags_of_algorithms(mrl.algorithms.ALGORITHMS).items():
        kind = f"{getattr(flag.kind, '__name__', flag.kind)}" if isinstance(flag.kind, type) else str(flag.kind)
        hint = f"{kind} | None"
        if option in FLAG_NAMES:
            names = f'name="{FLAG_NAMES[option].replace("_", "-")}", aliases=["--{option}"]'
            hint = f"Annotated[{hint}, tyro.conf.arg({names})]"
        lines.append(f"    {option}: {hint} = None")
        indent = {"initial_indent": "    ", "subsequent_indent": "    ", "break_on_hyphens": False}
        lines += textwrap.wrap(f'"""{flag.text}"""', 120, **indent)
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]{}<>$~&])", r"\\\1", text)


def hostile() -> str:
    """What must hold, and one row per case of the hostile campaign, kind by kind."""
    from benchmarks.hostile_cases import CASES, KINDS, must_hold
    from benchmarks.hostile_tools import KEEPS

    lines = [_row("of the files", ""), _row("---", "---")]
    lines += [_row(f"**{name}**", meaning) for name, meaning in KEEPS.items()]
    lines += ["", f"{len(CASES)} cases:"]
    for kind in KINDS:
        lines += ["", f"**{kind.capitalize()}**", "", _row("case", "must hold"), _row("---", "---")]
        lines += [_row(_plain(case.name), must_hold(case)) for case in CASES if case.kind == kind]
    return "\n".join(lines)


ROOT = Path(__file__).resolve().parent.parent
TABLES = {
    ROOT / "README.md": {"algorithms": algorithms, "families": families},
    ROOT / "docs" / "algorithms.md": {"updates": updates},
    ROOT / "docs" / "options.md": {"options": options, "own options": own_options},
    ROOT / "docs" / "environments.md": {"environments": environments, "knobs": knobs},
    ROOT / "docs" / "hostile.md": {"hostile": hostile},
    ROOT / "metarl_jax" / "runs" / "config" / "options.py": {"flags": flags},
}


def rendered(text: str, tables: dict[str, Callable[[], str]]) -> str:
    """`text` with each table brought up to date.

    Raises:
        ValueError: a table's markers are missing.
    """
    for name, table in tables.items():
        page = re.search(rf"<!-- table: {name} -->\n|    # <generated: {name}> .*\n", text)
        end = re.compile(r"<!-- end of table -->|    # <end of generated>").search(text, page.end() if page else 0)
        if not (page and end):
            raise ValueError(f"there are no markers for the table {name!r}")
        text = f"{text[: page.end()]}{table()}\n{text[end.start() :]}"
    return text


def main(arguments: list[str]) -> int:
    """Rewrites the pages or, with --check, compares; returns the exit status."""
    changed = False
    for page, tables in TABLES.items():
        text = page.read_text(encoding="utf-8")
        current = rendered(text, tables)
        changed |= current != text
        if arguments != ["--check"]:
            page.write_text(current, encoding="utf-8")
    return int(changed and arguments == ["--check"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
