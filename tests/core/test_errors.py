"""The error tree, and which failures of writing become an error with a remedy."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from preceptor.core.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    EmptyDataError,
    Interrupted,
    LockedError,
    LostError,
    MismatchError,
    OutputError,
    PreceptorError,
    TrainingError,
    free_bytes,
    output_errors,
)


def test_every_error_is_one_of_ours_with_its_exit_code() -> None:
    codes = {
        ConfigError("m"): 2,
        DataError("m"): 1,
        EmptyDataError("m"): 1,
        ArtifactError("m"): 1,
        MismatchError("m"): 1,
        OutputError("m"): 1,
        LockedError("m"): 1,
        TrainingError("m"): 1,
        LostError("m"): 75,
        LostError("m", exit_code=2): 2,
        Interrupted(2): 130,
        Interrupted(15): 143,
    }
    for error, code in codes.items():
        assert isinstance(error, PreceptorError)
        assert error.exit_code == code


def test_the_text_is_the_message_then_the_remedy() -> None:
    assert str(PreceptorError("it broke")) == "it broke"
    assert str(PreceptorError("it broke", remedy="mend it")) == "it broke\n  To fix it: mend it"


def test_data_errors_name_the_place() -> None:
    assert DataError("broken", file="a.jsonl", line=3).message == "a.jsonl:3: broken"
    assert DataError("broken", file=Path("a.txt"), byte=17).message == "a.txt, byte 17: broken"
    assert DataError("broken").message == "broken"


def test_a_mismatch_prints_the_difference() -> None:
    error = MismatchError("another tokenizer", difference={"vocab_size": (4096, 8192)})
    assert error.message == "another tokenizer\n  vocab_size: made with 4096, now 8192"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "writable"),
        (errno.EACCES, "writable"),
        (errno.EPERM, "writable"),
        (errno.EFBIG, "ulimit"),
        (errno.ENOTDIR, "out of the way"),
        (errno.EEXIST, "out of the way"),
        (errno.EIO, "check the disk"),
    ],
)
def test_a_failed_write_becomes_an_output_error(number: int, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=remedy) as caught, output_errors(tmp_path / "out"):
        raise OSError(number, os.strerror(number))
    assert str(tmp_path / "out") in caught.value.message
    assert os.strerror(number) in caught.value.message


def test_a_full_disk_says_how_much_is_free(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"MB free\)"), output_errors(tmp_path / "not" / "yet" / "there"):
        raise OSError(errno.ENOSPC, "full")
    assert free_bytes(tmp_path / "not" / "yet" / "there") is not None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        Exception("No space left on device (os error 28)"),
        OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
        OSError("16384 requested and 0 written"),
    ],
)
def test_libraries_that_keep_the_number_in_the_text_are_understood(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left"), output_errors(tmp_path):
        raise error


def test_dev_full_through_python_and_numpy(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left"), output_errors(tmp_path), open("/dev/full", "wb", 0) as f:
        f.write(b"x")
    with pytest.raises(OutputError, match="No space left"), output_errors(tmp_path), open("/dev/full", "wb") as f:
        np.zeros(100_000).tofile(f)


def test_a_file_size_limit_is_an_output_error(tmp_path: Path) -> None:
    code = (
        "import resource, sys, pathlib\n"
        "from preceptor.core.errors import OutputError, output_errors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "try:\n"
        "    with output_errors(path):\n"
        "        path.write_bytes(bytes(5000))\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000
    path = tmp_path / "big"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert f"cannot write {path}: File too large" in done.stdout
    assert "ulimit" in done.stdout


def test_reading_another_file_is_not_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), output_errors(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "input.txt"))
    with pytest.raises(FileNotFoundError), output_errors(tmp_path / "out"):
        (tmp_path / "missing").read_text()


def test_a_folder_above_or_a_file_inside_concerns_the_path(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "out"
    for named in (tmp_path / "runs", out / "model.bin"):
        with pytest.raises(OutputError), output_errors(out):
            raise PermissionError(errno.EACCES, "Permission denied", str(named))


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), output_errors(tmp_path):
        _ = 1 / 0
    with pytest.raises(ConfigError), output_errors(tmp_path):
        raise ConfigError("the text (os error 28) is not looked at")
