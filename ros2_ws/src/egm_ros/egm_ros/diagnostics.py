"""The node's health as a diagnostic_msgs/DiagnosticArray: state, frames, refusals, answers."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from egm_ros.mailbox import Mailbox


def to_diagnostics(node_name: str, active: bool, mailbox: Mailbox, counts: dict[str, int]) -> DiagnosticArray:
    """One status: OK, or WARN as soon as something was refused or failed; the counters are its values."""
    troubles = {name: n for name, n in counts.items() if "rejected" in name or "refused" in name or "failed" in name}
    status = DiagnosticStatus(name=f"{node_name}: grounding", hardware_id="")
    status.level = DiagnosticStatus.WARN if troubles else DiagnosticStatus.OK
    state = "active" if active else "inactive"
    status.message = f"{state}; {', '.join(f'{name} {n}' for name, n in troubles.items()) or 'nothing refused'}"
    values = {"frames_received": mailbox.received, "frames_skipped": mailbox.skipped, **counts}
    status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticArray(status=[status])
