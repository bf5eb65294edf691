"""An agent's log spooler alone, on the log files of an Envoy that runs already: to be killed."""

import sys
import time
from pathlib import Path

from twisted.internet import reactor, task
from twisted.internet.defer import ensureDeferred
from twisted.internet.threads import deferToThread

from avinet.dataplane.envoy_admin import EnvoyAdmin
from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.dataplane.envoy_logs import reopened
from avinet.logs import spool_window
from avinet.logs.spool import Spool
from avinet.se.log_spooler import LogSpooler


class Source:
    """As much of the data plane as the spooler asks for."""

    def __init__(self, folder):
        self._files = EnvoyFiles(folder)
        self._admin = EnvoyAdmin(reactor, self._files, 5.0)

    def log_files(self):
        return self._files.logs

    def reopen_logs(self):
        return ensureDeferred(reopened(reactor, self._admin, self._files.logs, lambda: True))


def main(state, data_plane, chunk_bytes, once):
    spool_window.CHUNK_BYTES = int(chunk_bytes)
    spool_window.WINDOW_BYTES = 3 * int(chunk_bytes)
    source = Source(Path(data_plane))
    spooler = LogSpooler(
        source,
        lambda: Spool.open(Path(state), source.log_files().folder, time.time),
        reactor,
        deferToThread,
        lambda code, level, text: print(code, level, text, flush=True),
    )

    async def run():
        while True:
            try:
                counter = await spooler.flush()
            except Exception as why:
                print(why, flush=True)
            else:
                print("flushed", counter, flush=True)
                if once == "once":
                    await spooler.stop()
                    reactor.stop()
                    return
            await task.deferLater(reactor, 0.02)

    def opened(spool):
        print("open", flush=True)
        ensureDeferred(run())

    spooler.on_open(opened)
    spooler.start()
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
