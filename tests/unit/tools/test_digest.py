"""The digest is that of the file's bytes."""

import hashlib
from pathlib import Path

from tunesmith.tools.digest import file_sha256


def test_digest_is_of_the_bytes_also_of_a_file_longer_than_one_read(tmp_path: Path) -> None:
    for content in (b"", b"a\r\nb\x00", bytes(range(256)) * 5000):
        (tmp_path / "file").write_bytes(content)
        assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
