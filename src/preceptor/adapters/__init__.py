"""Small trainable parts attached to a built model."""
