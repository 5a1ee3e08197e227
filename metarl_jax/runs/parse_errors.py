"""What tyro says of a command line that does not parse, in our words."""

import re


def one_line(panel: str) -> str:
    """The message of tyro's error panel, in our words: its text up to the pointer to the help, without the frame."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip(" │") for line in panel.splitlines()]
    if len(lines) > 1 and lines[1].startswith("---"):  # where there is no frame, the title stands over a rule
        lines = lines[2:]
    lines = [line for line in lines if line and line[0] not in "╭╰─" and not line.startswith("---")]
    kept: list[str] = []
    for line in lines:
        if line.startswith(("For full helptext", "Argument helptext", "Got errors")):
            break
        # Of "Perhaps you meant", the names are enough.
        kept.append(re.sub(r"^(--[\w-]+).*", r"\1", line) if "Perhaps you meant:" in kept else line)
    if "Perhaps you meant:" in kept:
        at = kept.index("Perhaps you meant:")
        close = list(dict.fromkeys(line for line in kept[at + 1 :] if line.startswith("--")))
        kept = [*kept[:at], f"- did you mean {' or '.join(close)}?"] if close else kept[:at]
    text = " ".join(kept)
    for pattern, words in _IN_OUR_WORDS.items():
        text = re.sub(pattern, words, text)
    return text + " (--help lists every option)"


# What tyro and Python say of a value that is none, and that a check has refused.
_IN_OUR_WORDS = {
    r"^Error parsing \w+: ": "",
    r"^Error parsing (--\S+): invalid literal for int\(\) with base 10: (.*)": r"\1 is \2; it must be an integer",
    r"^Error parsing (--\S+): could not convert string to float: (.*)": r"\1 is \2; it must be a number",
    r"^Error parsing (--\S+): no type matching \{None\}\|\W*INT\b.* could be instantiated from \[(.*)\]\.": (
        r"\1 is \2; it must be an integer, or None"
    ),
    r"^Error parsing (--\S+): no type matching \{None\}\|\W*FLOAT\b.* could be instantiated from \[(.*)\]\.": (
        r"\1 is \2; it must be a number, or None"
    ),
}
