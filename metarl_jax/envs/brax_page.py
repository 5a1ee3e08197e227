"""Brax's viewer page, which needs a network connection when opened."""

from types import SimpleNamespace
from typing import Any

import jax

from metarl_jax.envs.brax_adapter import quiet


def brax_page(system: Any, links: Any) -> str:
    """An HTML page that shows one episode; it loads Brax's viewer and three.js from a CDN.

    Args:
        system: Brax's System; `opt.timestep` is the time between two frames, in seconds.
        links: Brax's Transform per frame, leaves [frames, links, ...].

    Raises:
        ValueError: the system comes from MuJoCo's C engine.
    """
    if not hasattr(system, "link_types"):
        raise ValueError(
            "Brax's viewer draws what ran on a backend of Brax; this ran on 'mujoco', so leave the viewer out"
        )
    with quiet():
        from brax.io import html

    frames = range(links.pos.shape[0])
    states: Any = [SimpleNamespace(x=jax.tree.map(lambda leaf, t=t: leaf[t], links)) for t in frames]
    return html.render(system, states, colab=False)
