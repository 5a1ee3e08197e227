"""The tables of the README, docs/environments.md and docs/hostile.md, generated from registries and cases.

python docs/tables.py            # rewrites them between their markers
python docs/tables.py --check    # status 1 if that would change it
"""

import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import metarl_jax as mrl
from metarl_jax.envs.brax_adapter import RUNNING_BACKENDS
from metarl_jax.envs.dynamics import FIELDS
from metarl_jax.keywords import descriptions
from metarl_jax.runs.config.flags import of_algorithms as flags_of_algorithms
from metarl_jax.runs.config.options import FLAG_NAMES


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in cells) + " |"


def algorithms() -> str:
    """One row per registered algorithm: its docstring's first line, its own options, its papers."""
    rows = [_row("name", "meta-update", "its own options (default)", "paper"), _row(*["---"] * 4)]
    for name in mrl.algorithms.names():
        function = mrl.algorithms.ALGORITHMS[name]
        documentation = inspect.getdoc(function) or ""
        defaults = mrl.algorithms.options(name)
        own = {
            option: defaults[option]
            for option in vars(function.options).get("__annotations__", {})
            if option in defaults
        }
        papers = re.findall(r"arXiv:(\d{4}\.\d{5})", documentation)
        rows.append(
            _row(
                f"`{name}`",
                documentation.split("\n\n")[0],
                ", ".join(f"`{option}` ({default})" for option, default in own.items()),
                ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in papers),
            )
        )
    return "\n".join(rows)


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
    rows = [_row("family", "hidden task", "physics"), _row("---", "---", "---")]
    for family in mrl.envs.names():
        card = mrl.envs.card(family)
        versions = ", ".join(f"`@{name.partition('@')[2]}`" for name in card.versions)
        rows.append(_row(f"`{family}` {versions}", card.tasks, _physics(card)))
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
    ROOT / "docs" / "environments.md": {"environments": environments, "knobs": knobs},
    ROOT / "docs" / "hostile.md": {"hostile": hostile},
    ROOT / "metarl_jax" / "runs" / "options.py": {"flags": flags},
}


def rendered(text: str, tables: dict[str, Callable[[], str]]) -> str:
    """`text` with every table brought up to date.

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
