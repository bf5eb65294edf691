"""``python -m avinet.app.envoy_launch``: a service engine's Envoy as a service of its own.

A service manager runs this; it prepares what Envoy needs, records itself and becomes Envoy in place, with the same
process number.  What was in force last serves at once, before the agent is up and also without it.  The agent, told
``[data_plane] started_by = "service"``, adopts it.

It takes the agent's options, so that one list of them serves both units.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Never

from avinet.app.envoy_terms import envoy_settings
from avinet.app.settings import load_se_settings
from avinet.dataplane.envoy import launch_data_plane
from avinet.errors import AvinetError
from avinet.se.config_files import ConfigFiles
from avinet.trust.files import private_dir

TITLE = "avinet's Envoy"
LAUNCH_FAILED = 1
USAGE_WRONG = 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        self.exit(USAGE_WRONG, f"{TITLE} cannot start: {message}; see --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m avinet.app.envoy_launch",
        description="Becomes the Envoy of a service engine, with what was configured last. For service managers.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--state",
        type=Path,
        default="/var/lib/avinet/se",
        help="The SE's state folder; default: %(default)s.",
    )
    parser.add_argument("--config", type=Path, help="The SE's settings file (TOML).")
    for option in ("--image", "--meta-info", "--envoy-started-by"):
        parser.add_argument(option, help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Become Envoy, or say in one line why not."""
    options = _parser().parse_args(arguments)
    try:
        settings = envoy_settings(load_se_settings(options.config))
        state = private_dir(options.state.absolute())
        launch_data_plane(state / "data-plane", settings, ConfigFiles(state / "config").peek())
    except (AvinetError, OSError) as why:
        sys.stderr.write(f"{TITLE} cannot start: {why}\n")
    return LAUNCH_FAILED


if __name__ == "__main__":
    sys.exit(main())
