"""TensorBoard event files, without importing TensorBoard's own writer.

`tensorboard.summary.writer` draws in fsspec, asyncio and NumPy and, where it is installed, TensorFlow; its
messages alone load in a tenth of the time. The file around them is short enough to write here.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from a3c.experiment.loggers import finite_number, is_episode

_FLUSH_EVERY_S = 2.0
_CRC32C_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected


class TensorBoardLogger:
    """Owns one event file of scalars over environment steps.

    Metrics lines become scalars of their keys' names, episode lines `episode/return` and `episode/length`.
    What is no finite number is passed over.

    Args:
        directory: where the event file goes; made if it does not exist.
    """

    def __init__(self, directory: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2  # noqa: PLC0415  (only where used)

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(directory / name, "wb")  # noqa: SIM115  (kept until close)
        self._next_flush = 0.0
        self._append(self._event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, step: int, metrics: Mapping[str, object]) -> None:
        """Append one event that holds the line's scalars."""
        if is_episode(metrics):
            metrics = {f"episode/{key}": metrics.get(key) for key in ("return", "length")}
        scalars = [
            self._summary.Value(tag=tag, simple_value=number)
            for tag, value in metrics.items()
            if tag != "env_steps" and (number := finite_number(value)) is not None
        ]
        if scalars:
            summary = self._summary(value=scalars)
            self._append(self._event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Flush and close the event file."""
        self._file.close()

    def _append(self, event: object) -> None:
        self._file.write(record(event.SerializeToString()))  # type: ignore[attr-defined]
        if time.monotonic() >= self._next_flush:  # a TensorBoard that is watching sees it at once, or nearly
            self._file.flush()
            self._next_flush = time.monotonic() + _FLUSH_EVERY_S


def record(data: bytes) -> bytes:
    """One record of a TFRecord file: length, its checksum, data, their checksum; little-endian."""
    length = struct.pack("<Q", len(data))
    return length + _masked_crc32c(length) + data + _masked_crc32c(data)


def _masked_crc32c(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    rotated = (crc >> 15) | (crc << 17)  # masked, so that a checksum of data that holds checksums stays sound
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def _crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (_CRC32C_POLYNOMIAL if byte & 1 else 0)
    return byte


_CRC_TABLE = tuple(_crc_of_byte(byte) for byte in range(256))
