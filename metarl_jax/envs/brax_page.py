"""Brax's own viewer page, for those who have a network when they open it."""

from types import SimpleNamespace
from typing import Any

import jax

from metarl_jax.envs.brax_adapter import quiet


def brax_page(system: Any, links: Any) -> str:
    """An HTML page that shows one episode; it loads Brax's viewer and three.js from a CDN.

    Args:
        system: Brax's System, `opt.timestep` the seconds between two moments.
        links: Brax's Transform of every moment, leaves [moments, links, ...].

    Raises:
        ValueError: the system is not Brax's but of MuJoCo's C engine.
    """
    if not hasattr(system, "link_types"):
        raise ValueError(
            "Brax's viewer draws what ran on a backend of Brax; this ran on 'mujoco', so leave the viewer out"
        )
    with quiet():
        from brax.io import html

    moments = range(links.pos.shape[0])
    states: Any = [SimpleNamespace(x=jax.tree.map(lambda leaf, t=t: leaf[t], links)) for t in moments]
    return html.render(system, states, colab=False)
