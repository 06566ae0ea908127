"""Train CartPole-v1 until it is solved, load what was learned, evaluate it. No `__main__` guard is needed."""

import a3c

run = a3c.train("CartPole-v1", seed=0, stop_at_return=475, run_dir="runs/quickstart", overwrite=True)
policy = a3c.load("runs/quickstart")
result = a3c.evaluate(policy, "CartPole-v1", episodes=20)
low, high = result.return_ci95
print("solved" if run.solved else "not solved", "after", run.summary["env_steps"], "steps")
print(f"mean return {result.return_mean:.1f} of at most 500 (95% interval {low:.1f} to {high:.1f})")
