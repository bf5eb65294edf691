"""``avinet backup`` and ``avinet restore``: a controller as one sealed file, and back."""

import errno
import io
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, cast

import click

from avinet.app.cli.asking import at_terminal
from avinet.app.cli.client import Client, path_to
from avinet.app.cli.context import Command, Place, examples, place
from avinet.app.cli.errors import FileError, UsageError
from avinet.app.cli.out_file import OutFile
from avinet.app.cli.output import moment, print_facts, print_json
from avinet.app.settings import load_controller_settings
from avinet.errors import AvinetError, Kind, error
from avinet.trust.files import DiskFullError, FileTooLargeError, read_private, sync_folder
from avinet.trust.locks import StateFolderBusyError, StateLock
from avinet.trust.node import ControllerPaths, read_cluster
from avinet.units import show_bytes

if TYPE_CHECKING:
    from avinet.app.backup import Backup, BackupWriter

BACKUP, ENGINES = "backup", "engines"
MAX_PASSPHRASE_BYTES = 4096
TOLD_EACH_S = 1.0
_FILE = click.Path(dir_okay=False, path_type=Path)


@error
class StateEngineStoppedError(AvinetError):
    """{state} keeps its state in a state engine, which can be read only while its controller runs. Start it (systemctl start avicontroller), then back up; neither service engines nor traffic notice a backup."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    state: Path


def configuration_option(command: Any) -> Any:
    """``--configuration-of``."""
    return click.option(
        "--configuration-of",
        type=click.Choice((ENGINES, BACKUP)),
        default=ENGINES,
        show_default=True,
        help="Whose counts where an engine has seen a newer one than the backup's.",
    )(command)


def passphrase_options(command: Any) -> Any:
    """``--passphrase-file`` and ``--passphrase-fd``."""
    for option in (
        click.option(
            "--passphrase-fd", type=click.IntRange(min=0), help="An open descriptor to read it from."
        ),
        click.option(
            "--passphrase-file", type=_FILE, help="A 0600 file with the passphrase; asked for without."
        ),
    ):
        command = option(command)
    return command


def passphrase_of(file: Path | None, descriptor: int | None, *, new: bool) -> bytes:
    """From where the options say; else from whoever is at the terminal, twice where it is a ``new`` one."""
    if file is not None and descriptor is not None:
        raise UsageError(
            what="--passphrase-file and --passphrase-fd are two sources of one passphrase: name one"
        )
    if file is not None:
        found = read_private(file)
    elif descriptor is not None:
        try:
            with os.fdopen(descriptor, "rb", closefd=False) as source:
                found = source.read(MAX_PASSPHRASE_BYTES)
        except OSError as why:
            raise FileError(
                what="read", path=f"descriptor {descriptor}", why=why.strerror or str(why)
            ) from why
    elif at_terminal():
        asked: str = click.prompt(
            "Passphrase of the backup",
            hide_input=True,
            err=True,
            confirmation_prompt="Once more" if new else False,
        )
        found = asked.encode()
    else:
        raise UsageError(
            what="the passphrase: --passphrase-file FILE or --passphrase-fd N, where nobody can be asked"
        )
    found = found.rstrip(b"\r\n")
    if not found or len(found) >= MAX_PASSPHRASE_BYTES:
        raise UsageError(what=f"a passphrase of 1 to {MAX_PASSPHRASE_BYTES - 1} bytes")
    return found


@examples(
    "avinet backup /root/controller-$(date +%F).backup",
    "avinet backup --passphrase-file /etc/avinet/backup.pass --config /etc/avinet/controller.toml c1.backup",
    "avinet backup --verify c1.backup       # is it whole, and of whom",
)
@click.command(cls=Command)
@click.argument("file", type=_FILE)
@click.option("--verify", is_flag=True, help="Write nothing: read FILE to its end and say what it is.")
@click.option("--config", type=_FILE, help="The controller's settings file, to be kept with the rest.")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@passphrase_options
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), help="As the global option.")
@place
def backup(  # noqa: PLR0913, PLR0917 - one parameter an option
    where: Place,
    file: Path,
    verify: bool,  # noqa: FBT001 - click passes options by name
    config: Path | None,
    force: bool,  # noqa: FBT001
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    state: Path | None,
) -> None:
    """Write everything that this controller needs in an empty machine to FILE, encrypted.

    On the controller's machine, while it runs or not: keys, certificates, the membership list, configuration, service
    engines, tokens, users. Not in it: logs, events, the audit, built images. FILE is read back before it counts.
    """
    from avinet.app.backup import BackupDiffersError, read_backup  # here, since it brings the store

    if state is not None:
        where.state = state
    if verify:
        passphrase = passphrase_of(passphrase_file, passphrase_fd, new=False)
        _tell(where, file, read_backup(file, passphrase, progress=_Progress("read").told))
        return
    paths = where.local_keys("avinet backup")
    read_cluster(paths.state)
    if file.exists() and not force:
        raise FileError(what="write", path=str(file), why="it exists (--force replaces it)")
    settings = None if config is None else _settings(config)
    with OutFile.beside(file) as out:
        passphrase = passphrase_of(passphrase_file, passphrase_fd, new=True)
        try:
            sha256 = _write(paths, out, settings, passphrase)
        except OSError as why:
            raise _disk(file, why) from why
        # Not before it was read back does it have its name, and an older one under that name is gone.
        found = read_backup(out.written(), passphrase, progress=_Progress("verified").told)
        if found.sha256 != sha256:
            raise BackupDiffersError(path=file)
        out.keep()
        sync_folder(file.parent)
    _tell(where, file, found)


@examples(
    "avinet restore c1.backup --state /var/lib/avinet/controller",
    "sudo -u avicontroller avinet restore --passphrase-file pass --state /var/lib/avinet/controller c1.backup",
)
@click.command(cls=Command)
@click.argument("file", type=_FILE)
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), help="As the global option.")
@configuration_option
@click.option("--root-key", type=_FILE, help="The root key, 0600, where the backup has none.")
@passphrase_options
@place
def restore(  # noqa: PLR0913, PLR0917 - one parameter an option
    where: Place,
    file: Path,
    state: Path | None,
    configuration_of: str,
    root_key: Path | None,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
) -> None:
    """Make an empty state folder that of the controller whose backup FILE is; then start it.

    Service engines come back without enrolling again. One that has seen a newer configuration than the backup's keeps it
    until: avinet config accept-restored. Other controllers of the cluster are in its list no more and join anew.
    """
    from avinet.app.backup import read_backup  # here, since it brings the store
    from avinet.app.restore import restore as restored

    if state is not None:
        where.state = state
    paths = where.local_state("avinet restore")
    passphrase = passphrase_of(passphrase_file, passphrase_fd, new=False)
    found = read_backup(file, passphrase, progress=_Progress("read").told)
    accepted = configuration_of == BACKUP
    done = restored(found, paths.state, accepted=accepted, root_key=root_key)
    made = {
        "cluster": found.about.cluster,
        "controller": found.about.controller,
        "backup_made_at": found.about.made_at,
        "state": str(paths.state),
        "keys": done.keys,
        "incarnation": done.fence.incarnation,
        "version": done.fence.version,
        "membership": done.membership,
        "membership_raised": done.raised,
        "removed": list(done.dropped),
        "configuration_of": configuration_of,
        "settings": None if done.settings is None else str(done.settings),
    }
    if where.json:
        print_json(made)
        return
    print_facts(
        {name.replace("_", " "): value for name, value in made.items()}
        | {"backup made at": moment(found.about.made_at)}
    )
    click.echo(
        "\nNext: start the controller with its settings (systemctl start avicontroller), then: avinet se list"
    )
    click.echo(
        "Delete again, at once, what was deleted since the backup, and revoke tokens that were used since:"
    )
    click.echo("avinet se token list. Enrol anew what enrolled since.")
    if not accepted:
        click.echo("Engines with a newer configuration keep it until: avinet config accept-restored")
    if done.dropped:
        click.echo(
            f"{', '.join(done.dropped)}: must not be started again; let them join anew, with empty folders."
        )
    if not done.raised:
        click.echo(
            "The membership list is as it was, since the root key is not here: if a newer one was signed since the backup, "
            "engines refuse this one. Then restore with --root-key FILE."
        )


def _write(paths: ControllerPaths, out: OutFile, settings: bytes | None, passphrase: bytes) -> bytes:
    """The hash of what was written."""
    from avinet.app.backup import BackupWriter

    writer = BackupWriter.begin(out.file, paths, settings, passphrase)
    try:
        lock = StateLock.take(paths.state, "avinet controller")
    except StateFolderBusyError:
        _from_running(Client.unix(paths.api_socket), writer)
    else:
        try:
            _from_stopped(paths, writer)
        finally:
            lock.release()
    return writer.end()


def _from_running(client: Client, writer: "BackupWriter") -> None:
    from avinet.store.content_records import Unframer

    progress, came = _Progress("written"), Unframer(writer.put)

    class Counted(io.RawIOBase):
        """Where the answer goes."""

        count = 0

        def write(self, data: Any) -> int:
            self.count += len(data)
            progress.told(self.count, None)
            return came.write(bytes(data))

    client.fetch(path_to("backup", "store"), {}, cast("BinaryIO", Counted()))
    came.end()


def _from_stopped(paths: ControllerPaths, writer: "BackupWriter") -> None:
    from avinet.store.content_records import records_of
    from avinet.store.copying import living, read_file

    if not paths.store.exists():
        raise StateEngineStoppedError(state=paths.state)
    for record in records_of(living(read_file(paths.store))):
        writer.put(record)


def _settings(path: Path) -> bytes:
    from avinet.app.backup import MAX_SETTINGS_BYTES

    load_controller_settings(path)  # what cannot be started with is no use to keep
    with path.open("rb") as file:
        data = file.read(MAX_SETTINGS_BYTES + 1)
    if len(data) > MAX_SETTINGS_BYTES:
        raise FileTooLargeError(path=path, limit=MAX_SETTINGS_BYTES)
    return data


def _tell(where: Place, file: Path, found: "Backup") -> None:
    about = found.about
    facts = {
        "file": str(file),
        "bytes": found.size,
        "sha256": found.sha256.hex(),
        "cluster": about.cluster,
        "controller": about.controller,
        "software": about.software,
        "made_at": about.made_at,
        "keys": len(found.content.entries),
        "files": sorted(found.files),
        "root_key": "root_key" in found.files,
    }
    if where.json:
        print_json(facts)
        return
    shown = facts | {"bytes": show_bytes(found.size), "made_at": moment(about.made_at)}
    print_facts({name.replace("_", " "): value for name, value in shown.items()})
    click.echo(
        "\nIt was read back to its end and is whole. Keep its passphrase apart from it: nobody can help without."
    )


def _disk(file: Path, why: OSError) -> AvinetError:
    if why.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFullError(path=file)
    return FileError(what="write", path=str(file), why=why.strerror or str(why))


class _Progress:
    """A line that is written over, on a terminal only, once what it is about takes longer than a moment."""

    def __init__(self, word: str) -> None:
        self._word = word
        self._next = time.monotonic() + TOLD_EACH_S

    def told(self, count: int, size: int | None) -> None:
        """So many bytes, of so many."""
        if sys.stderr is None or not sys.stderr.isatty() or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + TOLD_EACH_S
        of = "" if size is None else f" of {show_bytes(size)}"
        click.echo(f"\r{self._word}: {show_bytes(count)}{of}   ", err=True, nl=False)
