"""The pixels of a PNG of 8 bits, by the standard library alone."""

import struct
import zlib


def rows_of(data):
    """Width, bytes for each pixel, and every row's bytes."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n", "no PNG"
    at, packed, width, height, channels = 8, b"", 0, 0, 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8:at + 8 + size]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlace = struct.unpack(">2I5B", body)
            assert depth == 8 and interlace == 0
            channels = {0: 1, 2: 3, 6: 4}[colour]
        elif kind == b"IDAT":
            packed += body
        at += 12 + size
    raw, size = zlib.decompress(packed), width * channels
    before, rows = bytes(size), []
    for y in range(height):
        start = y * (size + 1)
        rows.append(before := unfiltered(raw[start], raw[start + 1:start + 1 + size], before, channels))
    return width, channels, rows


def unfiltered(kind, line, above, step):
    if kind == 0:
        return line
    if kind == 2:
        return bytes((a + b) & 255 for a, b in zip(line, above))
    out = bytearray(line)
    for i in range(len(out)):
        left = out[i - step] if i >= step else 0
        up = above[i]
        if kind == 1:
            out[i] = (out[i] + left) & 255
        elif kind == 3:
            out[i] = (out[i] + (left + up) // 2) & 255
        else:
            corner = above[i - step] if i >= step else 0
            guess = left + up - corner
            distances = abs(guess - left), abs(guess - up), abs(guess - corner)
            nearest = (left, up, corner)[distances.index(min(distances))]
            out[i] = (out[i] + nearest) & 255
    return bytes(out)


def colours(data):
    """How many pixels there are of each (r, g, b)."""
    _, step, rows = rows_of(data)
    counts = {}
    for row in rows:
        for i in range(0, len(row), step):
            colour = row[i:i + 3]
            counts[colour] = counts.get(colour, 0) + 1
    return counts
