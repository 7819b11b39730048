"""The recipes that ship, the default data, and the pipeline that turns a recipe into artifacts."""
