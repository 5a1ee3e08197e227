"""Errors of a memory that is full: which they are, and what a user can do."""

import re


def is_it(error: BaseException) -> bool:
    """Whether an error says that the memory of the device, or of the machine, does not suffice."""
    return isinstance(error, MemoryError) or str(error).startswith("RESOURCE_EXHAUSTED")


def in_words(error: BaseException) -> str:
    """That the memory is full, of the device or of the machine, with what a user can do about it."""
    what = re.search(r"allocat\w+ ([\d.]+\s?\w+)", str(error))
    whose = "machine" if isinstance(error, MemoryError) else "device"
    return (
        f"the {whose}'s memory does not suffice{f': {what[1]} more were asked for' if what else ''}; take fewer "
        "--tasks, --episodes, --eval-tasks or --seeds, a smaller --hidden or --horizon, a --task-chunk or --remat; "
        "where another process has the device too, start both with XLA_PYTHON_CLIENT_PREALLOCATE=false, since "
        "otherwise the first one reserves three quarters of it"
    )
