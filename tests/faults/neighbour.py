"""Run inside a container's network: makes other addresses unreachable, without a word, or reachable again.

`python neighbour.py cut|mend CARD ADDRESS...`. What is sent to an address whose hardware address is set to
that of a card which is not there is lost, as with a pulled cable: no refusal, no error, only silence.
See `arp(7)`: SIOCSARP and SIOCDARP on a permanent entry.
"""

import contextlib
import fcntl
import socket
import struct
import sys

SET, DELETE = 0x8955, 0x8953
COMPLETE, PERMANENT = 0x02, 0x04
ETHERNET = 1
CARD = "eth0"


def entry(address: str, card: str) -> bytes:
    """A `struct arpreq`: protocol address, hardware address, flags, netmask, device."""
    protocol = struct.pack("<HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
    hardware = struct.pack("<H14s", ETHERNET, bytes.fromhex(card.replace(":", "")))
    return protocol + hardware + struct.pack("<i16x16s", COMPLETE | PERMANENT, CARD.encode())


def main(how: str, card: str, addresses: list[str]) -> None:
    """Cut or mend."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for address in addresses:
            with contextlib.suppress(OSError) if how == "mend" else contextlib.nullcontext():
                fcntl.ioctl(asked, SET if how == "cut" else DELETE, entry(address, card))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
