"""Model families as plain single-device modules, and their interchange with transformers."""
