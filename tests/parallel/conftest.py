import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from processes import Processes


@pytest.fixture(scope="module")
def processes(request, tmp_path_factory):
    """Runs a scene in so many processes: of the file that a module of tests names as SCENES, or of scenes.py."""
    scenes = getattr(request.module, "SCENES", "scenes.py")
    found = Processes(Path(__file__).with_name(scenes), tmp_path_factory.mktemp("answers"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def alone():
    """What one process makes of the scene ``curve``, by what it is given."""
    import scenes

    known = {}

    def run(**given):
        key = repr(sorted(given.items()))
        if key not in known:
            known[key] = scenes.curve(**given)
        return known[key]

    return run
