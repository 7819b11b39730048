"""What holds for every test: how the tests are named."""


def pytest_make_parametrize_id(config, val, argname):
    """Bytes give no name to a test: compressed ones hold the time of day, and every worker must read the same name."""
    return argname if isinstance(val, bytes) else None
