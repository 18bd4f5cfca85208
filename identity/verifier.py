"""A process that verifies for another one: `python -m identity.verifier`, a socket as its standard input.

It writes a byte when it is ready. Then it reads how many claims follow (4 bytes, big-endian) and the claims
(`keys.CLAIM_SIZE` bytes each), and answers with a byte for each: 1 if the signature is right. It ends when the other
side closes the socket, or has died.
"""

import contextlib
import socket
import sys

from identity.keys import CLAIM_SIZE, verify_claims


def main() -> None:
    """Serve until the socket ends."""
    with socket.socket(fileno=sys.stdin.fileno()) as channel, channel.makefile("rwb") as stream:
        stream.write(b"\x01")
        stream.flush()
        while len(head := stream.read(4)) == 4:
            size = int.from_bytes(head) * CLAIM_SIZE
            claims = stream.read(size)
            if len(claims) < size:
                return
            stream.write(
                bytes(verify_claims([claims[at : at + CLAIM_SIZE] for at in range(0, size, CLAIM_SIZE)]))
            )
            stream.flush()


if __name__ == "__main__":
    with contextlib.suppress(ConnectionError):  # nobody is left to read the answer
        main()
