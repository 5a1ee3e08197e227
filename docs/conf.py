"""The documentation site: ``python -m sphinx -W -b html docs build/site``, with the extra `docs` installed."""

import inspect
import re
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from sphinx.util import logging  # noqa: E402

import metarl_jax  # noqa: E402

project = "metarl_jax"
author = "The metarl_jax authors"
version = release = metarl_jax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

# Pages
html_theme = "sphinx_book_theme"
html_title = f"metarl_jax {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"show_navbar_depth": 1, "home_page_in_toc": True, "use_download_button": True}
html_copy_source = False

myst_heading_anchors = 4  # links to headings, as repository hosts make them
nb_execution_mode = "off"  # outputs are stored; a slow test runs the notebooks
nb_merge_streams = True

# A notebook must lie below this folder, so the build copies them here.
shutil.rmtree(HERE / "notebooks", ignore_errors=True)
shutil.copytree(
    ROOT / "experiments" / "notebooks",
    HERE / "notebooks",
    ignore=lambda _, names: [name for name in names if not name.endswith(".ipynb")],
)

# Links as they work in a repository, and where they lead on the site.
PLACES = {
    r"(?:\.\./)+CONTRIBUTING\.md": "contributing.md",
    r"(?:\.\./)+experiments/notebooks/(\w+)\.ipynb": r"notebooks/\1.ipynb",
    r"(?:\.\./)+experiments/results/README\.md": "stored_results.md",
}

# Reference. Docstrings are prose with `names`, and equations in Unicode where | and _ mean nothing to reStructuredText.
default_role = "literal"
autodoc_default_options = {"members": True, "undoc-members": True, "member-order": "bysource", "no-value": True}
autodoc_typehints_format = "short"
autodoc_use_type_comments = False
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False
python_maximum_signature_line_length = 140

LITERAL = re.compile(r"(``.+?``|`[^`]+`)")


def site_links(app: Any, name: str, source: list[str]) -> None:
    """Handler of source-read: links to pages of the site, whose text is the page's title where it was a file's name."""
    if name.startswith("notebooks/"):
        return
    for pattern, place in PLACES.items():
        source[0] = re.sub(rf"\]\({pattern}", f"]({place}", source[0])
    source[0] = re.sub(r"\[([\w.]+)\]\(((?:\.\./)+experiments/[\w./-]+\.md)\)", r"{download}`\1 <\2>`", source[0])
    source[0] = re.sub(r"\[[\w./]+\.md\]\((\w+\.md(?:#[\w-]+)?)\)", r"[](\1)", source[0])


def untyped_returns(lines: list[str]) -> None:
    """Turns "Returns:" into a field, because its first colon is punctuation here and never ends a type."""
    for number, line in enumerate(lines):
        if line.strip() == "Returns:" and number + 1 < len(lines):
            lines[number] = ""
            following = lines[number + 1]
            indent = len(following) - len(following.lstrip())
            lines[number + 1] = f"{line[: len(line) - len(line.lstrip())]}:returns: {following[indent:]}"


def own_options_only(obj: Any, lines: list[str]) -> None:
    """Shortens the Args of an algorithm to the options that its own struct declares; `maml` has them all."""
    if not hasattr(obj, "options") or obj is metarl_jax.algorithms.maml or "Args:" not in lines:
        return
    own = vars(obj.options).get("__annotations__", {})
    start = lines.index("Args:") + 1
    kept, keep = [], False
    for line in lines[start:]:
        if not line.startswith(" " * 8):
            keep = line.strip().partition(":")[0] in {"env", *own}
        kept += [line] if keep else []
    lines[start:] = [*kept, "    \\*\\*further: options that it shares with others, see :doc:`/options`", ""]


def short_signature(app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> Any:
    """Handler of autodoc-process-signature: a signature of thirty options tells less than the list below it."""
    if not (hasattr(obj, "options") and hasattr(obj, "build")):
        return None
    return "(env, **options)", inspect.signature(obj).return_annotation.__name__


def escaped(text: str) -> str:
    """A line of prose whose | * and trailing _ are shown as they are; literals stay."""
    parts = LITERAL.split(text)
    for index in range(0, len(parts), 2):
        parts[index] = re.sub(r"(?<!\\)\|", r"\\|", parts[index])
        parts[index] = re.sub(r"(?<![\\*])\*(?!\*)", r"\\*", parts[index])
        parts[index] = re.sub(r"(?<=\w)_(?!\w)", r"\\_", parts[index])
    return "".join(parts)


def before_napoleon(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Handler of autodoc-process-docstring."""
    if what == "class" and issubclass(obj, tuple) and (obj.__doc__ or "").startswith(f"{obj.__name__}("):
        lines[:] = []  # what NamedTuple writes where there is no docstring
    if lines and lines[0].startswith("Alias for field number"):
        lines[:] = []  # likewise
    if what in ("attribute", "data", "property"):
        lines.insert(0, "")  # or napoleon takes what precedes a colon for the type
    untyped_returns(lines)
    own_options_only(obj, lines)


def after_napoleon(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Handler of autodoc-process-docstring."""
    literal: int | None = None  # the indentation of the paragraph that opened a literal block
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        if literal is None and not line.lstrip().startswith((">>>", "...")):
            lines[number] = escaped(line)
            if line.rstrip().endswith("::"):
                literal = indent


def undocumented(app: Any, env: Any) -> None:
    """Handler of env-check-consistency: warns of public names that the reference lacks."""
    documented = env.domains["py"].objects
    packages = [metarl_jax.algorithms, metarl_jax.envs, metarl_jax.inner, metarl_jax.outer, metarl_jax.policies]
    for package in [metarl_jax, *packages, metarl_jax.zoo]:
        for name in package.__all__:
            full = f"{package.__name__}.{name}"
            if full not in documented and not inspect.ismodule(getattr(package, name)):
                logging.getLogger(__name__).warning("%s is public and in no page of docs/api", full)


def setup(app: Any) -> None:
    """Connects the handlers; those of docstrings around napoleon's, whose priority is 500."""
    app.connect("source-read", site_links)
    app.connect("env-check-consistency", undocumented)
    app.connect("autodoc-process-signature", short_signature)
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
