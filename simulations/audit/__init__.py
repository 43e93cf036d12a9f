"""The audit of a run: what was promised, what was spent, and whether the code keeps the promise."""
