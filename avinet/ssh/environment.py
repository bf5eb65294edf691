"""What a command on an SE finds in its environment: as little as OpenSSH gives, and nothing of the agent's own."""

import os
import pwd

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _user() -> tuple[str, str]:
    """Our name and home; a container's user may have neither."""
    try:
        user = pwd.getpwuid(os.getuid())
    except KeyError:
        return str(os.getuid()), "/"
    return user.pw_name, user.pw_dir


def environment_of(shell: str, terminal: str = "") -> dict[str, str]:
    """For a command run by ``shell``, at a ``terminal`` if that has a name."""
    name, home = _user()
    known = {
        "PATH": _PATH,
        "HOME": home,
        "USER": name,
        "LOGNAME": name,
        "SHELL": shell,
        "LANG": "C.UTF-8",
    }
    return known | ({"TERM": terminal} if terminal else {})
