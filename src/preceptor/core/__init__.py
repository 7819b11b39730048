"""What every other part stands on: configuration, errors, units, seeds and artifacts. No torch, imports nothing of ours."""
