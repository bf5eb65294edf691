"""What the settings say about control sessions, as those want it."""

from avinet.app.settings import ControlSection
from avinet.controller.session import SessionSettings


def session_settings(control: ControlSection) -> SessionSettings:
    """In seconds."""
    return SessionSettings(
        heartbeat_interval_s=control.heartbeat_interval_s,
        heartbeat_misses=control.heartbeat_misses,
        report_interval_s=control.report_interval_s,
        rtt_high_s=control.rtt_warning_ms / 1000,
        rtt_clear_s=control.rtt_warning_ms / 1000 * 6 / 7,
    )
