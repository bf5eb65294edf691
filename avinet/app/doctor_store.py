"""What ``avinet doctor`` looks at of the store: which engine it is, whether that can run, and whether it is well."""

import http.client
import json
import shutil
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from avinet.app.finding import FAILED, OK, WARNING, Finding, Findings
from avinet.app.store_settings import StoreSection
from avinet.controller.state_engine_binary import find_etcd
from avinet.controller.state_engine_config import url_of
from avinet.controller.state_engine_failure import last_words, reason_of
from avinet.controller.state_engine_files import EngineFiles, engine_files
from avinet.errors import AvinetError
from avinet.trust.node import ControllerPaths
from avinet.units import MIB, show_bytes

HEALTH_TIMEOUT_S = 3.0
"""etcd asks its cluster before it says that it is healthy; an election takes 1 to 2 s."""
LEAST_FREE_BYTES = 512 * MIB
"""Two pieces of its log and the next one (64 MB each), a snapshot, and the copy that a defragmentation makes."""


def store_findings(paths: ControllerPaths, settings: StoreSection, *, running: bool) -> Findings:
    """``running``: whether the controller does."""
    files = engine_files(paths.state)
    try:
        progress = files.progress()
    except AvinetError as why:
        yield Finding("store", FAILED, str(why), "Restore the folder from a backup.")
        return
    if settings.engine == "sqlite" and not (progress and progress.binding):
        yield Finding("store", OK, "sqlite")
        return
    if settings.endpoints:
        yield from _external(settings)
        return
    yield from _binary(settings)
    if progress is None:
        found = "etcd, from the next start on" if paths.store.exists() else "etcd, made at the first start"
        yield Finding("store", OK, found)
        return
    try:
        files.check()
    except AvinetError as why:
        yield Finding("state engine files", FAILED, str(why), "See docs/cluster.md, State engine.")
        return
    yield Finding("state engine files", OK, str(files.folder))
    yield from _room(files.folder)
    if running:
        yield _health(url_of(settings.client_port), files)
    else:
        yield from _last_end(files)


def _binary(settings: StoreSection) -> Findings:
    try:
        binary = find_etcd(Path(settings.etcd) if settings.etcd else None)
    except AvinetError as why:
        yield Finding("etcd", FAILED, str(why), "Install it, or set [store] etcd.")
        return
    yield Finding("etcd", OK, f"{binary.version} at {binary.path}")


def _room(folder: Path) -> Findings:
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE_BYTES:
        advice = "Free some space: etcd ends when it cannot write, and every write waits for it."
        yield Finding("state engine disk", WARNING, f"{show_bytes(free)} free at {folder}", advice)


def _external(settings: StoreSection) -> Findings:
    for name in ("ca", "certificate", "key", "password_file"):
        path = getattr(settings, name)
        if path and not Path(path).is_file():
            yield Finding(f"[store] {name}", FAILED, f"{path} is not there", "Correct the settings file.")
    yield Finding("store", OK, f"etcd at {', '.join(settings.endpoints)}")


def _health(url: str, files: EngineFiles) -> Finding:
    """What etcd itself says, to one that has its certificate."""
    parts = urlsplit(url)
    advice = f"One of several answers once a majority of them is up. Else see avinet status, and {files.log}"
    try:
        context = ssl.create_default_context(cafile=str(files.ca_pem))
        context.load_cert_chain(files.certificate, files.key_file)
        asked = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=HEALTH_TIMEOUT_S, context=context
        )
        try:
            asked.request("GET", "/health")
            healthy = json.loads(asked.getresponse().read(1000)).get("health") == "true"
        finally:
            asked.close()
    except (OSError, ValueError, http.client.HTTPException) as why:
        return Finding("state engine", FAILED, f"no answer from {url}: {why}", advice)
    if not healthy:
        return Finding(
            "state engine", FAILED, f"it answers at {url}, and says that it is not healthy", advice
        )
    return Finding("state engine", OK, f"healthy at {url}")


def _last_end(files: EngineFiles) -> Findings:
    """Why it ended, if it had words for that."""
    said = last_words(files.log)
    if said:
        why = reason_of(said, "", files.log, files.data)
        yield Finding("state engine", WARNING, f"when it last ran: {why}", "Do what that says, then start.")
