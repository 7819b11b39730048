"""What every other part stands on: configuration, errors, units, seeds and artifacts. It imports nothing of ours."""
