"""Runs a meta-trained θ in an external environment, such as a robot or gymnasium, with a NumPy interface."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import actions, checks, outside, soundness
from metarl_jax.base import MetaAlgorithm, Online
from metarl_jax.precision import full_precision
from metarl_jax.types import MetaState, Percept, PyTree, Trajectory, strongly_typed


class Learner:
    """φ = f_θ(D) with D from an external environment: ``act``, step it, ``observe``, and ``learn`` when `full`.

    A stage is N episodes of at most T steps (the algorithm's `episodes` and `horizon`), or fewer episodes that reach
    its `stage_steps`. φ is constant until ``learn()``, which makes one inner step from the stage. f_θ is that of
    ``algorithm.adapt``: the same episodes give the same φ, up to rounding. A recurrent algorithm such as rl2 learns
    while it acts: its stages are single episodes, and ``learn()`` only starts the next one. In lpg and self-tuning a
    stage is N pieces of T steps, and a longer episode continues in the next piece.

    All programs are compiled in the constructor, which takes seconds; after that nothing is traced or compiled.

    Args:
        algorithm: an algorithm of `metarl_jax.algorithms`, or a user-defined `Online`.
        params: θ.
        seed: seed of the sampled actions, and of φ if its initialisation is random.

    Raises:
        ValueError: the algorithm has no online form, or θ does not match it.

    Example:
        >>> env = mrl.envs.make("point-nav", horizon=5)  # in the place of a robot
        >>> algorithm = mrl.algorithms.make("maml", env, episodes=3)
        >>> learner = mrl.Learner(algorithm, algorithm.init(jax.random.key(0)).params)
        >>> task = env.sample_task(jax.random.key(1))
        >>> state = env.reset(jax.random.key(2), task)
        >>> for step in range(30):
        ...     state = env.step(task, state, learner.act(state.observation))
        ...     if learner.observe(state.reward, terminated=state.terminated, next_observation=state.observation):
        ...         state = env.reset(jax.random.key(3 + step), task)
        ...     if learner.full:  # 3 episodes of 5 steps
        ...         learner.learn()
    """

    def __init__(self, algorithm: MetaAlgorithm | Online, params: PyTree, seed: int = 0):
        online = algorithm if isinstance(algorithm, Online) else getattr(algorithm, "online", None)
        if online is None:
            raise ValueError(f"algorithm is {algorithm!r}, which does not say how to act outside of its environment")
        if isinstance(params, MetaState):
            raise ValueError("params is a MetaState; pass its params: state.params")
        if isinstance(algorithm, MetaAlgorithm):
            outside.check_theta(algorithm, params)
        self._online, self._theta = online, params
        self._shapes: Trajectory = online.stage()
        self._rows, self._steps = self._shapes.valid.shape
        # Shapes and dtypes of one step, without the axes of rows and steps.
        self._step = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), self._shapes)
        start = jax.jit(full_precision(lambda key, theta: strongly_typed(online.start(key, theta))))
        self._start = start.lower(jax.random.key(0), params).compile()
        self.reset(seed)
        self._has_mode = False  # which tracing finds out
        self._compile()

    def reset(self, seed: int | None = None) -> None:
        """Restarts the adaptation, for a new task: φ is again the initialisation of f_θ.

        Args:
            seed: seed of the actions sampled from now on; None: the previous seed + 1.
        """
        self._seed = checks.seed("seed", self._seed + 1 if seed is None else seed)
        start_key, self._act_key = jax.random.split(jax.random.key(self._seed))
        self._fast: PyTree = self._start(start_key, self._theta)
        self._acts = 0
        self._time = 0  # steps taken in the current episode
        self._proposed: dict[str, Any] | None = None  # an action whose outcome has not been observed
        self._by_mode = False  # whether this episode is played without exploration, and not learned from
        self._last_action, self._last_reward = np.zeros(actions.vector_size(self._online.env)), 0.0
        self._before = self._fast, self._last_action, self._last_reward  # the state at the start of the episode
        self._return, self._returns = 0.0, []
        self._begin_stage()

    def _compile(self) -> None:
        online, theta, fast = self._online, self._theta, self._fast

        def decide(key, number, by_mode, theta, fast, percept):
            fast, distribution = online.act(theta, fast, percept)
            action = distribution.sample(jax.random.fold_in(key, number))
            self._has_mode = hasattr(distribution, "mode")
            action = jnp.where(by_mode, distribution.mode(), action) if self._has_mode else action
            return fast, action, distribution.log_prob(action)

        def judge(theta, fast, percept, action):
            return online.act(theta, fast, percept)[1].log_prob(action)

        blank = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), self._step.observation)
        percept = self._percept(blank, start=False)
        self._decide = _compiled(decide, self._act_key, np.int32(0), np.bool_(False), theta, fast, percept)
        self._judge = _compiled(judge, theta, fast, percept, self._step.action)
        self._phi = _compiled(online.params, theta, fast)
        if (learn := online.learn) is not None:
            self._learn = _compiled(lambda *args: strongly_typed(learn(*args)), theta, fast, self._shapes)

    def _begin_stage(self) -> None:
        self._row, self._column, self._taken = 0, 0, 0
        self._next_missing = False  # the observation after a step is filled in by the next act
        self._data = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), self._shapes)

    def _as_spec(self, what: str, value: PyTree, spec: PyTree, most: float) -> PyTree:
        return outside.as_spec(self._online.env.name, what, value, spec, most)

    def _percept(self, observation: PyTree, start: bool) -> Percept:
        real = jnp.zeros((), float).dtype
        action, reward = np.asarray(self._last_action, real), np.asarray(self._last_reward, real)
        return Percept(observation, action, reward, np.asarray(start))  # type: ignore[arg-type]  # as jit takes them

    @property
    def params(self) -> PyTree:
        """φ; with a memory, the parameters that determine the next action."""
        return jax.tree.map(np.asarray, self._phi(self._theta, self._fast))

    @property
    def full(self) -> bool:
        """Whether the stage is complete, by episodes or by its budget of steps, so that `learn` can be called."""
        budget = self._online.budget
        spent = budget is not None and self._taken >= budget and self._column == 0
        return self._row == self._rows or spent

    @property
    def returns(self) -> list[float]:
        """Undiscounted returns of all finished episodes."""
        return list(self._returns)

    def act(self, observation: PyTree, deterministic: bool = False) -> Any:
        """The action for an observation: an array, or an int for one discrete choice.

        Args:
            observation: of the environment.
            deterministic: play this episode by the modes of the distributions. Such an episode is no sample of π_φ: it
                is no part of a stage, and a memory forgets it. It may be played while a stage is full.

        Raises:
            ValueError: the observation does not match the environment, the outcome of the last action was not observed,
                the stage is full, `deterministic` changes within an episode, or there is no mode.
        """
        if self._proposed is not None:
            raise ValueError("the last action's outcome is not known; call observe(reward, ...) before the next act")
        self._choose(deterministic)
        if self.full and not deterministic:
            if self._online.learn is not None:
                raise ValueError("the stage is full; call learn()")
            self._begin_stage()
        observation = self._as_spec("observation", observation, self._step.observation, soundness.MOST_OBSERVATION)
        if self._next_missing:
            _put(self._data.next_observation, (self._row, self._column - 1), observation)
            self._next_missing = False
        percept = self._percept(observation, start=self._time == 0)
        fast, action, log_prob = self._decide(
            self._act_key, np.int32(self._acts), np.bool_(deterministic), self._theta, self._fast, percept
        )
        action = np.array(action)
        if not np.isfinite(action).all():
            raise ValueError(f"the policy's action is {action}; θ is not finite")
        self._acts += not deterministic  # so that the sampled actions do not depend on such episodes
        self._proposed = {"percept": percept, "action": action, "log_prob": log_prob, "fast": fast}
        return action.copy() if action.ndim else int(action)

    def _choose(self, deterministic: bool) -> None:
        """Whether this episode is played by modes, which its first action decides."""
        if checks.boolean("deterministic", deterministic) and not self._has_mode:
            raise ValueError("deterministic is True, and the policy's distribution has no mode")
        if self._time and deterministic != self._by_mode:
            raise ValueError(f"deterministic is {deterministic}, and the episode began with {self._by_mode}")
        self._by_mode = deterministic

    def observe(
        self,
        reward: float,
        terminated: bool = False,
        truncated: bool = False,
        next_observation: PyTree = None,
        action: Any = None,
    ) -> bool:
        """Records the outcome of the last action.

        Args:
            reward: reward of the step.
            terminated: the episode has ended in a terminal state.
            truncated: the episode was cut in a state that is not terminal. Ignored at the T-th step: the task has T
                steps, as in `metarl_jax.types.Trajectory`, so a time limit of T need not be distinguished from the end.
            next_observation: the observation after the step; required if the episode was truncated or continues in
                another piece.
            action: the action that was executed, if it differs from the proposed one.

        Returns:
            Whether the episode is over and the environment must be reset: it has ended, or has had all its steps.

        Raises:
            ValueError: there was no action, a value is not finite or does not match the environment, or the observation
                after a truncated step or the end of a piece is missing. The learner is unchanged then.
        """
        proposed, online = self._proposed, self._online
        if proposed is None:
            raise ValueError("there is no action to observe the outcome of; call act(observation) first")
        reward = outside.number("reward", reward, soundness.MOST_REWARD)
        terminated, last = outside.flag("terminated", terminated), self._time + 1 == online.horizon
        truncated = outside.flag("truncated", truncated) and not terminated and not last
        episode_over = terminated or truncated or last
        learned = online.learn is not None and not self._by_mode
        piece_ends = self._column == self._steps - 1 and not episode_over and not self._by_mode
        if next_observation is not None:
            what, most = "next_observation", soundness.MOST_OBSERVATION
            next_observation = self._as_spec(what, next_observation, self._step.observation, most)
        elif (truncated or piece_ends) and learned:
            raise ValueError("what follows a cut is worth something: give next_observation")
        executed, log_prob = proposed["action"], proposed["log_prob"]
        if action is not None:
            executed = self._as_spec("action", action, self._step.action, np.inf)
            last = np.array(online.env.action_size) - 1
            if online.env.discrete and not ((executed >= 0) & (executed <= last)).all():
                raise ValueError(f"action is {action}; it must lie in 0..{last.tolist()}")
            log_prob = self._judge(self._theta, self._fast, proposed["percept"], executed)
        if learned:
            cut = truncated or piece_ends
            self._record(proposed["percept"].observation, executed, log_prob, reward, terminated, cut, next_observation)
            self._next_missing = next_observation is None and not episode_over
        self._proposed, self._fast = None, proposed["fast"]
        pairs = zip(actions.choices(online.env), np.atleast_1d(executed), strict=False)  # none of real actions
        self._last_action = np.concatenate([np.eye(n)[i] for n, i in pairs]) if online.env.discrete else executed
        self._last_reward, self._return, self._time = reward, self._return + reward, self._time + 1
        if not self._by_mode:
            self._column, self._taken = self._column + 1, self._taken + 1
        if not self._by_mode and (episode_over or piece_ends):
            self._row, self._column = self._row + 1, 0
        if episode_over:
            self._returns.append(self._return)
            self._return, self._time = 0.0, 0
            if self._by_mode:
                self._go_back()
            else:
                self._before = self._fast, self._last_action, self._last_reward
        return episode_over

    def _record(self, observation, action, log_prob, reward, terminated, cut, next_observation) -> None:
        index, data = (self._row, self._column), self._data
        _put(data.observation, index, observation)
        _put(data.next_observation, index, observation if next_observation is None else next_observation)
        data.action[index], data.log_prob[index], data.reward[index], data.valid[index] = action, log_prob, reward, True
        data.discount[index], data.truncated[index] = float(not terminated), cut

    def _go_back(self) -> None:
        """The adaptation is again what it was at the start of the episode."""
        self._fast, self._last_action, self._last_reward = self._before

    def discard(self) -> None:
        """Discards the current episode, as if it had not started; reset the environment afterwards.

        For episodes that are not samples of the task, such as after a sensor failure or when someone lifted the robot.
        If the episode started in an earlier piece, the earlier pieces are kept.
        """
        self._go_back()
        if not self.full:
            self._data.valid[self._row] = False
        self._taken -= self._column
        self._proposed, self._column, self._time, self._return, self._next_missing = None, 0, 0, 0.0, False

    def learn(self) -> None:
        """One inner step, φ ← f_θ(φ, stage), and the start of the next stage.

        Raises:
            ValueError: the stage is not full, or φ would not be finite; φ is unchanged then.
        """
        if not self.full:
            raise ValueError(
                f"the stage has {self._row} of {self._rows} episodes, and a step from fewer is another one; go on "
                "until `full`, or make the algorithm with fewer episodes"
            )
        if self._online.learn is not None:
            for row in range(self._row, self._rows):  # rows after the budget: repeat the first step, as on padding
                jax.tree.map(lambda leaf, row=row: leaf.__setitem__((row, 0), leaf[0, 0]), self._data)
                self._data.valid[row] = False
            fast = self._learn(self._theta, self._fast, self._data)
            leaves = [leaf for leaf in jax.tree.leaves(fast) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
            if not all(np.isfinite(leaf).all() for leaf in leaves):
                raise ValueError("φ would not be finite after this step; call reset(), or lower inner_lr")
            self._fast = fast
            self._before = fast, self._last_action, self._last_reward
        self._begin_stage()


def _compiled(function: Any, *args: Any) -> Any:
    return jax.jit(full_precision(function)).lower(*args).compile()


def _put(tree: PyTree, index: tuple[int, int], value: PyTree) -> None:
    jax.tree.map(lambda leaf, new: leaf.__setitem__(index, new), tree, value)
