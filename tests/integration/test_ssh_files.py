"""Real sftp and scp against the SE's own SSH server: files there and back, and no further than their folder."""

import os
from pathlib import Path

import pytest_twisted

from avinet.ssh.confined import ConfinedFolder
from avinet.ssh.policy import CommandPolicy
from tests.integration.test_ssh_openssh import Run, World, need, until


class Files(World):
    """A world whose SE has a folder for files."""

    def __init__(self, tmp_path, **bounds):
        self.root = tmp_path / "files"
        super().__init__(CommandPolicy(files=ConfinedFolder(self.root, **bounds)))

    def asked(self, program, *arguments, stdin=None, limit=60):
        known = self.known("127.0.0.1", self.direct.getHost().port, self.se_host_key)
        port = str(self.direct.getHost().port)
        options = [*self.options(self.id_file, known), "-P", port]
        return Run(need(program), *options, *arguments, stdin=stdin, limit=limit).done

    there = "aviseuser@127.0.0.1:"


def mixed(path: Path, size: int) -> bytes:
    data = os.urandom(64 * 1024) * (size // (64 * 1024)) + b"end"
    path.write_bytes(data)
    return data


@pytest_twisted.ensureDeferred
async def test_scp_takes_a_large_file_there_and_back(tmp_path):
    w = Files(tmp_path)
    try:
        data = mixed(tmp_path / "large", 32 << 20)
        status, _, said = await w.asked("scp", "-p", str(tmp_path / "large"), w.there + "large")
        assert (status, said) == (0, "")
        assert (w.root / "large").read_bytes() == data
        status, _, said = await w.asked("scp", w.there + "large", str(tmp_path / "back"))
        assert (status, said) == (0, "")
        assert (tmp_path / "back").read_bytes() == data
        await until(lambda: len(w.uses) == 2)
        assert [use.kind for use in w.uses] == ["files", "files"]
        assert w.uses[0].command.startswith("put large (32.0 MiB)")
        assert w.uses[1].command.startswith("got large (32.0 MiB)")
    finally:
        await w.close()


@pytest_twisted.ensureDeferred
async def test_folders_are_copied_whole_and_a_session_does_all_that_people_do(tmp_path):
    w = Files(tmp_path)
    try:
        tree = tmp_path / "tree"
        (tree / "sub").mkdir(parents=True)
        for n in range(150):
            (tree / "sub" / f"file-{n}").write_text(str(n))
        status, _, said = await w.asked("scp", "-r", str(tree), w.there)
        assert (status, said) == (0, "")
        assert len(list((w.root / "tree" / "sub").iterdir())) == 150
        script = b"cd tree\nls -l sub\nrename sub other\nmkdir new\nrmdir new\nrm other/file-1\ndf\npwd\n"
        status, out, said = await w.asked("sftp", "-b", "-", "aviseuser@127.0.0.1", stdin=script)
        assert status == 0, said
        assert b"file-149" in out
        assert b"/tree" in out
        assert not (w.root / "tree" / "other" / "file-1").exists()
    finally:
        await w.close()


@pytest_twisted.ensureDeferred
async def test_what_lies_outside_cannot_be_had(tmp_path):
    w = Files(tmp_path)
    try:
        (tmp_path / "secret").write_text("secret")
        w.root.mkdir()
        (w.root / "link").symlink_to(tmp_path / "secret")
        for path in ("../secret", str(tmp_path / "secret"), "link", "/etc/passwd"):
            status, _, _ = await w.asked("scp", w.there + path, str(tmp_path / "stolen"))
            assert status != 0, path
        assert not (tmp_path / "stolen").exists()
        status, _, _ = await w.asked("scp", str(tmp_path / "secret"), w.there + "../placed")
        assert status == 0  # within the folder, where ``..`` ends
        assert (w.root / "placed").exists()
        assert not (tmp_path / "placed").exists()
    finally:
        await w.close()


@pytest_twisted.ensureDeferred
async def test_a_full_folder_and_a_policy_without_files_say_no(tmp_path):
    w = Files(tmp_path, max_bytes=1 << 20)
    try:
        mixed(tmp_path / "large", 4 << 20)
        status, _, said = await w.asked("scp", str(tmp_path / "large"), w.there + "large")
        assert status != 0
        assert sum(file.stat().st_size for file in w.root.iterdir()) <= 1 << 20
        w.commands.policy = CommandPolicy()
        status, _, said = await w.asked("scp", str(tmp_path / "large"), w.there + "large")
        assert status != 0
        assert "subsystem request failed" in said
        await until(lambda: len(w.uses) == 2)
        assert w.uses[-1].kind == "refused"
    finally:
        await w.close()


@pytest_twisted.ensureDeferred
async def test_a_client_that_is_killed_leaves_no_open_files(tmp_path):
    w = Files(tmp_path)
    try:
        mixed(tmp_path / "large", 512 << 20)
        status, _, _ = await w.asked("scp", str(tmp_path / "large"), w.there + "large", limit=0.7)
        assert status == -9
        await until(lambda: not w.commands.sessions)
        assert not w.commands.policy.files._opened
    finally:
        await w.close()
