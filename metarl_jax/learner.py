"""A meta-trained θ in an environment outside of the program: a robot, or one of gymnasium. NumPy goes in and out."""

from typing import Any

import jax
import numpy as np

from metarl_jax import checks
from metarl_jax.base import MetaAlgorithm, Online
from metarl_jax.precision import full_precision
from metarl_jax.types import MetaState, Percept, PyTree, Trajectory


class Learner:
    """φ = f_θ(D) where D comes from outside: ``act``, step the environment, ``observe``, and ``learn`` when `full`.

    A stage has room for N episodes of at most T steps, the algorithm's `episodes` and `horizon`; φ stays as it is
    until ``learn()``, which makes one inner step from the episodes since the last one, N or fewer. It is the f_θ of
    ``algorithm.adapt``: the same episodes give the same φ, up to rounding. An algorithm with a memory, such as rl2,
    learns while it acts: `full` is never true, and ``learn()`` does nothing. In lpg and self-tuning a stage has N
    pieces of T steps, and an episode that is longer goes on in the next piece; there every ``observe`` takes the next
    observation.

    All programs are compiled at the start, which takes seconds; afterwards nothing is traced, and no step waits for a
    compiler.

    Args:
        algorithm: of `metarl_jax.algorithms`, or an `Online` of one's own.
        params: θ.
        seed: of the actions that are drawn, and of a φ whose start is drawn.

    Raises:
        ValueError: the algorithm cannot be used so, or θ is not one of its own.

    Example:
        >>> learner = mrl.Learner(run.algorithm, run.params)
        >>> for stage in range(2):
        ...     while not learner.full:
        ...         observation, over = robot.reset(), False
        ...         while not over:
        ...             observation, reward, fell = robot.step(learner.act(observation))
        ...             over = learner.observe(reward, terminated=fell, next_observation=observation)
        ...     learner.learn()
    """

    def __init__(self, algorithm: MetaAlgorithm | Online, params: PyTree, seed: int = 0):
        online = algorithm if isinstance(algorithm, Online) else getattr(algorithm, "online", None)
        if online is None:
            raise ValueError(f"algorithm is {algorithm!r}, which does not say how to act outside of its environment")
        if isinstance(params, MetaState):
            raise ValueError("params is a MetaState; pass its params: state.params")
        self._online, self._theta = online, params
        self._stage: Trajectory = online.stage()
        rows, steps = self._stage.valid.shape
        self._rows, self._steps = rows, steps
        key = jax.random.key(checks.seed("seed", seed))
        self._start_key, self._act_key = jax.random.split(key)
        self._fast: PyTree = jax.jit(online.start)(self._start_key, params)
        self._acts = 0
        self._time = 0  # steps of the episode
        self._waiting: dict[str, Any] | None = None  # an action that nothing was observed of
        self._last_action, self._last_reward = np.zeros(online.env.action_size), 0.0
        self._return, self._returns = 0.0, []
        self._forget()
        self._compile()

    def _compile(self) -> None:
        online, theta = self._online, self._theta

        def decide(number, theta, fast, percept):
            fast, distribution = online.act(theta, fast, percept)
            action = distribution.sample(jax.random.fold_in(self._act_key, number))
            return fast, action, distribution.log_prob(action)

        def judge(theta, fast, percept, action):
            return online.act(theta, fast, percept)[1].log_prob(action)

        example = self._percept(np.zeros(self._observation.shape, self._observation.dtype), False)
        self._decide = jax.jit(full_precision(decide)).lower(np.int32(0), theta, self._fast, example).compile()
        action = jax.ShapeDtypeStruct(self._stage.action.shape[2:], self._stage.action.dtype)
        self._judge = jax.jit(full_precision(judge)).lower(theta, self._fast, example, action).compile()
        if online.learn is not None:
            self._learn = jax.jit(full_precision(online.learn)).lower(theta, self._fast, self._stage).compile()

    @property
    def _observation(self) -> jax.ShapeDtypeStruct:
        leaf = self._stage.observation
        return jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype)

    def _forget(self) -> None:
        self._row, self._column, self._next_missing = 0, 0, False
        blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), self._stage)
        self._data = blank.replace(discount=np.ones_like(blank.discount))

    def _percept(self, observation: np.ndarray, start: bool) -> Percept:
        real = jax.numpy.zeros((), float).dtype
        action, reward = np.asarray(self._last_action, real), np.asarray(self._last_reward, real)
        return Percept(observation, action, reward, np.asarray(start))  # type: ignore[arg-type]  # as jit takes them

    @property
    def params(self) -> PyTree:
        """φ, or what the memory means for what is done next."""
        return self._online.params(self._theta, self._fast)

    @property
    def full(self) -> bool:
        """Whether the stage has no room for a further episode, so that it is time to learn."""
        return self._row == self._rows

    @property
    def returns(self) -> list[float]:
        """Undiscounted returns of all episodes that have ended."""
        return list(self._returns)

    def act(self, observation: Any) -> Any:
        """The action for an observation: an array, or an int where actions are discrete.

        Raises:
            ValueError: it is no observation of this environment, the last action's outcome was not observed, or the
                stage is full.
        """
        if self._waiting is not None:
            raise ValueError("the last action's outcome is not known; call observe(reward, ...) before the next act")
        if self.full and self._online.learn is not None:
            raise ValueError(f"the stage is full, with {self._rows} of {self._rows} rows; call learn()")
        observation = self._checked("observation", observation, self._observation)
        if self._next_missing:
            self._data.next_observation[self._row, self._column - 1] = observation
            self._next_missing = False
        percept = self._percept(observation, self._time == 0)
        fast, action, log_prob = self._decide(np.int32(self._acts), self._theta, self._fast, percept)
        self._acts += 1
        action = np.asarray(action)
        if not np.isfinite(action).all():
            raise ValueError(f"the policy's action is {action}; θ or what it has learned is not finite")
        self._waiting = {"percept": percept, "action": action, "log_prob": log_prob, "fast": fast}
        return int(action) if self._online.env.discrete else action

    def observe(
        self,
        reward: float,
        terminated: bool = False,
        truncated: bool = False,
        next_observation: Any = None,
        action: Any = None,
    ) -> bool:
        """What came of the last action.

        Args:
            reward: of the step.
            terminated: the episode has ended in a terminal state.
            truncated: it was cut although its state is not terminal. The horizon itself need not be reported: the task
                counts T steps, as in `metarl_jax.types.Trajectory`.
            next_observation: what the step led to; needed where the episode was truncated, or goes on in another piece.
            action: what was done instead of the proposed action, if something else was.

        Returns:
            Whether the episode is over, so that the environment must be reset: it has ended, or has had all its steps.

        Raises:
            ValueError: there was no action, a value is not finite or not of this environment, or the observation
                after a truncated step or the end of a piece is missing.
        """
        waiting, discrete = self._waiting, self._online.env.discrete
        if waiting is None:
            raise ValueError("there is no action to observe the outcome of; call act(observation) first")
        reward = checks.finite("reward", reward)
        flags = checks.boolean("terminated", bool(terminated)), checks.boolean("truncated", bool(truncated))
        terminated, truncated = flags[0], flags[1] and not flags[0]
        over = terminated or truncated or self._time + 1 == self._online.horizon
        piece_ends = self._column == self._steps - 1 and not over and self._online.learn is not None
        if next_observation is not None:
            next_observation = self._checked("next_observation", next_observation, self._observation)
        elif truncated or piece_ends:
            raise ValueError("what follows a cut is worth something: give next_observation")
        log_prob = waiting["log_prob"]
        if action is not None:
            of_stage = jax.ShapeDtypeStruct(self._stage.action.shape[2:], self._stage.action.dtype)
            waiting["action"] = self._checked("action", action, of_stage)
            if discrete and not 0 <= waiting["action"] < self._online.env.action_size:
                raise ValueError(f"action is {action}; it must lie in 0..{self._online.env.action_size - 1}")
            log_prob = self._judge(self._theta, self._fast, waiting["percept"], waiting["action"])
        self._waiting, self._fast = None, waiting["fast"]
        self._last_action = np.eye(self._online.env.action_size)[waiting["action"]] if discrete else waiting["action"]
        self._last_reward, self._return, self._time = reward, self._return + reward, self._time + 1
        if self._online.learn is not None:
            self._record(waiting, log_prob, reward, terminated, truncated or piece_ends, next_observation)
            self._next_missing = next_observation is None and not over  # the next act tells
            if over or piece_ends:
                self._row, self._column = self._row + 1, 0
        if over:
            self._returns.append(self._return)
            self._return, self._time = 0.0, 0
        return over

    def _record(self, waiting, log_prob, reward, terminated, truncated, next_observation) -> None:
        at, data, observation = (self._row, self._column), self._data, waiting["percept"].observation
        data.observation[at], data.action[at], data.log_prob[at] = observation, waiting["action"], log_prob
        data.reward[at], data.valid[at] = reward, True
        data.discount[at], data.truncated[at] = float(not terminated), truncated
        data.next_observation[at] = observation if next_observation is None else next_observation
        self._column += 1

    def learn(self) -> None:
        """φ ← f_θ(φ, the episodes since the last time); the first episode after it belongs to the next stage.

        Raises:
            ValueError: nothing was seen, or an episode has not ended.
        """
        if self._online.learn is None:
            return
        if self._waiting is not None or (self._column and self._steps == self._online.horizon):
            raise ValueError("an episode is running; learn when observe has returned True")
        if self._next_missing:
            raise ValueError("what follows a cut is worth something: give next_observation in observe")
        if self._column:  # a piece may end anywhere
            self._data.truncated[self._row, self._column - 1] = True
        if not self._data.valid.any():
            raise ValueError("nothing was seen since the last step, so there is nothing to learn from")
        self._fast = self._learn(self._theta, self._fast, self._data)
        self._forget()

    def _checked(self, what: str, value: Any, wanted: jax.ShapeDtypeStruct) -> np.ndarray:
        given = np.asarray(value)
        if given.shape != wanted.shape or not np.issubdtype(given.dtype, np.number):
            raise ValueError(
                f"{what} has shape {list(given.shape)} and dtype {given.dtype}; those of "
                f"{self._online.env.name!r} have shape {list(wanted.shape)}"
            )
        if not np.isfinite(given).all():
            raise ValueError(f"{what} is {given}; it must be finite")
        return given.astype(wanted.dtype)
