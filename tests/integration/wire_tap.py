"""Everything that passes a network device, for as long as standard input is open; a summary as JSON at the end.

``python -m tests.integration.wire_tap DEVICE NEEDLE``: what protocols and ports there were, how each TCP connection began,
and whether ``NEEDLE`` was to be read anywhere.  An AF_PACKET socket: needs root, and no other program.
"""

import json
import select
import socket
import struct
import sys

ETH_P_ALL = 3
NOT_OURS = {0x0806, 0x86DD}
"""ARP and IPv6: what the kernel itself says on a fresh device."""


def main():
    device, needle = sys.argv[1], sys.argv[2].encode()
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    tap.bind((device, 0))
    seen = {"others": [], "ports": {}, "begins": {}, "needle": False, "bytes": 0}
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([tap, sys.stdin], [], [])
        if tap not in readable:
            break
        packet = tap.recv(70_000)
        seen["needle"] |= needle in packet
        seen["bytes"] += len(packet)
        (kind,) = struct.unpack("!H", packet[12:14])
        if kind in NOT_OURS:
            continue
        if kind != 0x0800 or packet[23] != socket.IPPROTO_TCP:
            seen["others"].append(packet[:64].hex())
            continue
        ip_size = (packet[14] & 15) * 4
        segment = packet[14 + ip_size : 14 + struct.unpack("!H", packet[16:18])[0]]
        source, target = struct.unpack("!HH", segment[:4])
        payload = segment[(segment[12] >> 4) * 4 :]
        seen["ports"][str(min(source, target))] = seen["ports"].get(str(min(source, target)), 0) + 1
        if payload:
            seen["begins"].setdefault(f"{source}>{target}", payload[:7].decode("latin-1"))
    print(json.dumps(seen), flush=True)


main()
