"""An MLLP receiver that acknowledges HL7 v2 messages in original mode (HL7 v2.5.1 2.9.2)."""

import socketserver
import threading
from datetime import UTC, datetime

from hilum_standalone.receivers.kept import Kept

_START, _END = b"\x0b", b"\x1c\x0d"  # HL7 MLLP: <VT> message <FS><CR>
_LONGEST = 16_000_000


def acknowledge(message: bytes, *, now: datetime) -> tuple[bytes, str]:
    """The ACK and the message's control id; AE when it has no usable header, with an empty id.

    The ACK is in the message's own encoding: only MSH-2 to MSH-10 are read, and they are ASCII here.
    """
    header = message.split(b"\r", 1)[0].decode("latin-1")
    stamp = now.strftime("%Y%m%d%H%M%S+0000")
    fields = header.split("|")
    if not header.startswith("MSH|^~\\&|") or len(fields) < 12 or not fields[9]:
        text = f"MSH|^~\\&|DEMO_RIS||||{stamp}||ACK|{stamp}|P|2.5.1\rMSA|AE||no usable MSH segment\r"
        return text.encode("latin-1"), ""
    control_id, version = fields[9], fields[11]
    trigger = fields[8].split("^")[1] if "^" in fields[8] else ""
    kind = f"ACK^{trigger}^ACK" if trigger else "ACK"
    lines = (
        "|".join(
            ("MSH", "^~\\&", *fields[4:6], *fields[2:4], stamp, "", kind, f"A{control_id}"[:20], fields[10], version)
        ),
        f"MSA|AA|{control_id}",
    )
    return "".join(f"{line}\r" for line in lines).encode("latin-1"), control_id


class _Handler(socketserver.BaseRequestHandler):
    server: "Receiver"

    def handle(self) -> None:
        buffer = b""
        self.request.settimeout(60)
        while True:
            try:
                received = self.request.recv(65_536)
            except OSError:
                return
            if not received or len(buffer) > _LONGEST:
                return
            buffer += received
            while (end := buffer.find(_END)) >= 0:
                start = buffer.find(_START)
                message, buffer = buffer[start + 1 : end], buffer[end + len(_END) :]
                if start < 0 or start > end:
                    return
                answer, control_id = acknowledge(message, now=datetime.now(UTC))
                if control_id:
                    self.server.kept.keep(control_id, "hl7", message)
                self.request.sendall(_START + answer + _END)


class Receiver(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, kept: Kept, *, host: str, port: int) -> None:
        super().__init__((host, port), _Handler)
        self.kept = kept


def serve(kept: Kept, *, host: str, port: int) -> Receiver:
    """Starts the receiver on its own threads."""
    server = Receiver(kept, host=host, port=port)
    threading.Thread(target=server.serve_forever, name="mllp", daemon=True).start()
    return server
