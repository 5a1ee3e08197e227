"""Linear baselines in numpy and float64, one row per step: a second implementation for the library's."""

import numpy as np


def all_features(observation, time):
    return np.concatenate([observation, observation**2, time_features(observation, time)])


def time_features(observation, time):
    return np.array([time, time**2, time**3]) / 100 ** np.arange(1.0, 4.0)


class Fit:
    """Ridge regression of the discounted returns of a list of episodes; the last steps of cut ones bootstrap V."""

    def __init__(self, trajectory, discount, ridge, features=all_features, episodes=None):
        self.features = features
        data = {name: np.asarray(getattr(trajectory, name)) for name in ("observation", "next_observation", "reward")}
        lengths = np.asarray(trajectory.valid).sum(1)
        steps = [(n, t) for n in (range(len(lengths)) if episodes is None else episodes) for t in range(lengths[n])]
        raw = np.array([features(data["observation"][n, t], t) for n, t in steps], np.float64)
        self.mean, self.deviation, self.weights = raw.mean(0), raw.std(0), np.zeros(1)
        rows, targets = [], []
        for n, t in steps:
            row, length = self.row(data["observation"][n, t], t), lengths[n]
            if trajectory.truncated[n, length - 1]:
                row = row - discount ** (length - t) * self.row(data["next_observation"][n, length - 1], length)
            rows.append(row)
            targets.append(sum(discount ** (k - t) * data["reward"][n, k] for k in range(t, length)))
        penalty = np.sqrt(ridge * len(rows)) * np.eye(len(rows[0]))
        self.weights = np.linalg.lstsq(np.vstack([rows, penalty]), np.append(targets, np.zeros(len(penalty))))[0]

    def row(self, observation, time):
        return np.append((self.features(observation, time) - self.mean) / self.deviation, 1.0)

    def values(self, trajectory, n):
        """V(s_t) and V(s_{t+1}) of episode n, each [T], 0 on padding."""
        episodes = np.zeros((2, trajectory.valid.shape[1]))
        for t in range(int(trajectory.valid[n].sum())):
            episodes[0, t] = self.row(np.asarray(trajectory.observation[n, t]), t) @ self.weights
            episodes[1, t] = self.row(np.asarray(trajectory.next_observation[n, t]), t + 1) @ self.weights
        return episodes
