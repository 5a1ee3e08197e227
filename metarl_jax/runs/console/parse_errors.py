"""Rewrites tyro's error panels as one-line messages."""

import re


def one_line(panel: str) -> str:
    """Rewrites tyro's error panel as one line: the text before the pointer to the help, without the frame."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip(" │") for line in panel.splitlines()]
    if len(lines) > 1 and lines[1].startswith("---"):  # without a frame, the title is above a rule
        lines = lines[2:]
    lines = [line for line in lines if line and line[0] not in "╭╰─" and not line.startswith("---")]
    message: list[str] = []
    for line in lines:
        if line.startswith(("For full helptext", "Argument helptext", "Got errors")):
            break
        # After "Perhaps you meant", keep the option names only.
        message.append(re.sub(r"^(--[\w-]+).*", r"\1", line) if "Perhaps you meant:" in message else line)
    if "Perhaps you meant:" in message:
        at = message.index("Perhaps you meant:")
        close = list(dict.fromkeys(line for line in message[at + 1 :] if line.startswith("--")))
        message = [*message[:at], f"- did you mean {' or '.join(close)}?"] if close else message[:at]
    text = " ".join(message)
    for pattern, words in _IN_OUR_WORDS.items():
        text = re.sub(pattern, words, text)
    return text + " (--help lists every option)"


# Messages of tyro and Python for values that do not parse, and for values that a check rejects.
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
