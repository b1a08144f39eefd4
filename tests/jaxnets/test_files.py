import os
import subprocess
import sys
import threading

import pytest

from jaxnets.files import opened_regular, read_regular, replacing, write_atomically


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    write_atomically(path, "fünf")
    assert path.read_bytes() == b"f\xc3\xbcnf"
    write_atomically(path, b"six")
    assert path.read_bytes() == b"six" and os.listdir(path.parent) == ["file.txt"]
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode, "others may read what they could read before"


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_a_killed_process_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    program = f"""
import os, signal, pathlib
from jaxnets.files import replacing
with replacing(pathlib.Path({str(path)!r})) as file:
    file.write(b"new")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    assert path.read_bytes() == b"old"
    [partial] = tmp_path.glob(".*.partial")
    write_atomically(path, b"new")
    assert partial.exists(), "another process may still be at work"
    os.utime(partial, (0, 0))
    write_atomically(path, b"newer")
    assert os.listdir(tmp_path) == ["file"] and path.read_bytes() == b"newer"


def test_writers_at_once_leave_the_whole_file_of_one_of_them(tmp_path):
    path = tmp_path / ("long " * 50)
    contents = [bytes([number]) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=write_atomically, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents and len(os.listdir(tmp_path)) == 1


def test_what_has_no_end_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "zeros", tmp_path):
        with pytest.raises(OSError) as refusal, opened_regular(path):
            pass
        assert refusal.value.strerror in ("it is no regular file", "Is a directory")


def test_a_file_is_read_up_to_a_limit(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", limit=5) == b"12345"
    with pytest.raises(OSError, match="it is larger than 0 MiB"):
        read_regular(tmp_path / "file", limit=4)
