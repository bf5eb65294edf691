"""Which release this is."""

from importlib.metadata import PackageNotFoundError, version


def software_version() -> str:
    """The installed distribution's version; ``0`` when run from a bare source tree."""
    try:
        return version("avinet")
    except PackageNotFoundError:
        return "0"
