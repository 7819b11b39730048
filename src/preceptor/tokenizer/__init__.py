"""From text to ids and back, and the stored streams of ids that training reads."""
