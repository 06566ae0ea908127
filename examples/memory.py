"""Train on a task that only memory can solve, and play it: the recurrent state goes from call to call."""

import numpy as np

import a3c
from a3c.envs.teaching import Recall

# A cue is shown at the first step; six steps later the action must name it. Without memory the mean return is 0.
run = a3c.train(
    Recall,
    memory="lstm",
    memory_size=32,
    hidden_sizes=(32,),
    envs_per_worker=16,
    rollout_length=8,  # an episode is 7 steps: the cue and the choice often lie in different rollouts
    learning_rate=3e-3,
    total_env_steps=200_000,
    stop_at_return=0.95,
    run_dir="runs/memory",
    overwrite=True,
)
policy, env, returns = run.policy(), Recall(), []
for episode in range(20):
    observation, _ = env.reset(seed=episode)
    state, done, total = None, False, 0.0  # None: an episode begins without a state
    while not done:
        action, state = policy.predict(observation, state, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, done = total + float(reward), terminated or truncated
    returns.append(total)
print(f"mean return {np.mean(returns):.2f} of at most 1, with a state of shape {state.shape}")
