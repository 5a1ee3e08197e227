"""The robots of MuJoCo's C engine (Todorov et al. 2012), read from the model files of the installed gymnasium package.

gymnasium itself is not imported: only its files are read. Besides the edits for rllab's robots in `SOURCES`, three
things are changed. Textures, most of a model's size, are removed. The cheetah's total mass is set by MuJoCo's function,
since the XML attribute for it is deprecated; the masses are the same. Contact margins are halved for MuJoCo versions
that add up the margins of two geoms (since about 3.3): earlier versions use the larger one, and all geoms of a robot
have the same margin.
"""

import functools
import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.envs.brax_adapter import quiet

TOTAL_MASS = "settotalmass"


class Source(NamedTuple):
    """The source of a robot's model."""

    file: str
    """name of gymnasium's model file"""
    frames: int
    """physics steps per control step"""
    edits: Mapping[str, Mapping[str, str]] = {}
    """path of an XML element → attributes to change"""
    start: str | None = None
    """numeric field of the file with the initial q; None: MuJoCo's reference position"""
    sensed: bool = False
    """whether states include the centre of mass of the whole robot and its velocity"""


SOURCES = {
    "halfcheetah": Source("half_cheetah.xml", 5),
    "ant": Source("ant.xml", 5),
    "hopper": Source("hopper.xml", 4),
    "walker2d": Source("walker2d.xml", 4),  # as in Gym's v2 to v4; in v5 both feet have friction 1.9
    "humanoid": Source("humanoid.xml", 5),
    # rllab (github.com/rll/rllab, vendor/mujoco_models): its half_cheetah.xml is Gym's, its ant.xml has these edits.
    "halfcheetah-rllab": Source("half_cheetah.xml", 1, sensed=True),
    "ant-rllab": Source(
        "ant.xml",
        1,
        {"option": {"timestep": "0.02"}, "default/geom": {"solimp": "0.8 0.8 0.01"}},
        start="init_qpos",
        sensed=True,
    ),
}
"""robot → its model. Names without a suffix are also names of Brax's robots, whose models differ."""


class Loaded(NamedTuple):
    """A robot's MuJoCo model."""

    model: Any
    """`mujoco.MjModel`"""
    start: np.ndarray
    """[nq] initial q, before noise"""


def assets() -> Path:
    """The folder of gymnasium's model files.

    Raises:
        ImportError: gymnasium is not installed, or has no such folder.
    """
    spec = importlib.util.find_spec("gymnasium")
    for root in () if spec is None else spec.submodule_search_locations or ():
        folder = Path(root) / "envs" / "mujoco" / "assets"
        if folder.is_dir():
            return folder
    raise ImportError(
        "backend 'mujoco' takes its robots from gymnasium's model files, which are not installed: "
        'pip install "gymnasium>=1.0"'
    )


def load(robot: str) -> Loaded:
    """The model of one of `SOURCES`.

    MuJoCo's automatic reset of diverged simulations is off: they stay non-finite, and their episodes count as void.

    Raises:
        ImportError: gymnasium is not installed.
    """
    source = SOURCES[robot]
    root = ElementTree.parse(assets() / source.file).getroot()
    for asset in root.findall("asset"):
        root.remove(asset)
    for element in root.iter():
        element.attrib.pop("material", None)
    for path, attributes in source.edits.items():
        for element in root.findall(path):
            element.attrib.update(attributes)
    total = next((e.attrib.pop(TOTAL_MASS) for e in root.findall("compiler") if TOTAL_MASS in e.attrib), None)
    if source.sensed:
        sensors = ElementTree.SubElement(root, "sensor")
        ElementTree.SubElement(sensors, "subtreecom", body="torso")
        ElementTree.SubElement(sensors, "subtreelinvel", body="torso")
    with quiet():
        mujoco: Any = importlib.import_module("mujoco")
        model = mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))
        if total is not None:
            mujoco.mj_setTotalmass(model, float(total))
            mujoco.mj_setConst(model, mujoco.MjData(model))
        if margins_add():
            model.geom_margin *= 0.5
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    start = model.qpos0 if source.start is None else model.numeric(source.start).data
    return Loaded(model, np.array(start))


@functools.cache
def margins_add() -> bool:
    """Whether the installed MuJoCo adds up the contact margins of two geoms, rather than using the larger one."""
    mujoco: Any = importlib.import_module("mujoco")
    ball = '<geom type="sphere" size="1" margin="0.1"/>'
    bodies = f'<body>{ball}</body><body pos="2.15 0 0"><freejoint/>{ball}</body>'
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{bodies}</worldbody></mujoco>")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return data.ncon > 0


class System:
    """A MuJoCo model with the attributes of Brax's `System` that families use; other attributes are the model's."""

    def __init__(self, model: Any, start: np.ndarray):
        self.model, self._start = model, start
        self.actuator = SimpleNamespace(ctrl_range=np.array(model.actuator_ctrlrange))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["model"], name)

    @property
    def init_q(self) -> jax.Array:
        """[nq] initial q, before noise, in the current default float type."""
        return jnp.asarray(self._start, float)

    def q_size(self) -> int:
        """Length of q."""
        return self.model.nq

    def qd_size(self) -> int:
        """Length of q̇."""
        return self.model.nv

    def act_size(self) -> int:
        """Number of control components."""
        return self.model.nu


def torso(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """(base [3], slides [3, nq]): the torso's position is base + slides · q (it has slide joints or a free joint)."""
    joint: Any = importlib.import_module("mujoco").mjtJoint
    base, slides = np.array(model.body_pos[1]), np.zeros((3, model.nq))
    for kind, body, address, axis in zip(
        model.jnt_type, model.jnt_bodyid, model.jnt_qposadr, model.jnt_axis, strict=True
    ):
        if kind == joint.mjJNT_FREE:
            base, slides[:, address : address + 3] = np.zeros(3), np.eye(3)
        elif kind == joint.mjJNT_SLIDE and body == 1:
            slides[:, address] = axis
            base -= axis * model.qpos0[address]
    return base, slides
