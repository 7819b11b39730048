"""A trained model put to use: generation and chat."""
