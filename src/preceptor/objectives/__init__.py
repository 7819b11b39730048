"""What a model is trained to do: batches, attention pattern and loss."""
