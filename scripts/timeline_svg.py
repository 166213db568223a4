#!/usr/bin/env python3
"""Draws one evaluation of a `timeline` trace as SVG: all of its blocks, and the stages of one of them.

Usage: timeline_svg.py TRACE.json OUT.svg [STEP [BLOCK]]    STEP, BLOCK: indices from 0, -1 is the last (default -1, the middle)
Exit 0: drawn, 2: not (the reason on stderr).
"""
import html
import json
import sys
from pathlib import Path

WIDTH, LEFT, BAR = 1000, 12, 34
COLOURS = (("proj", "#2f6fb0"), ("attn_out", "#2f6fb0"), ("ffn_gate", "#2f6fb0"), ("ffn_up", "#2f6fb0"),
           ("ffn_out", "#2f6fb0"), ("softmax", "#b3541e"), ("context", "#b3541e"), ("scores", "#b3541e"), ("rope", "#8a5aa8"),
           ("norm", "#3c8d5a"), ("act", "#a8821e"), ("logits", "#7a2f4f"))


def fail(text):
    print(f"timeline_svg.py: {text}", file=sys.stderr)
    sys.exit(2)


def read(path):
    """Steps as dictionaries with `blocks` and `stages`; a block as one with `stages`."""
    text = Path(path).read_text()
    try:
        events = json.loads(text)
    except json.JSONDecodeError:
        try:
            events = json.loads(text.rstrip() + "]")  # its process did not end normally
        except json.JSONDecodeError as error:
            fail(f"{path}: no trace of the timeline plugin: {error}")
    steps, open_slices = [], []
    for event in events:
        if event["ph"] == "B":
            part = {"name": event["name"], "ts": event["ts"], "end": event["ts"], "stages": [], "blocks": [],
                    "args": event.get("args", {})}
            (open_slices[-1]["blocks"] if open_slices else steps).append(part)
            open_slices.append(part)
        elif event["ph"] == "E" and open_slices:
            open_slices.pop()["end"] = event["ts"]
        elif event["ph"] == "X" and open_slices:
            open_slices[-1]["stages"].append(event)
    return [step for step in steps if step["end"] > step["ts"]]


def pick(items, index, what):
    if not -len(items) <= index < len(items):
        fail(f"{what} {index}: there are {len(items)}")
    return items[index]


def colour(name):
    return next((value for part, value in COLOURS if part in name), "#667788")


class Picture:
    def __init__(self):
        self.parts, self.y = [], 10

    def text(self, x, y, text, size=12, fill="#222222"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}">{html.escape(text)}</text>')

    def box(self, x, width, name, fill, label=None):
        self.parts.append(f'<rect x="{x:.2f}" y="{self.y}" width="{max(width, 0.6):.2f}" height="{BAR}" fill="{fill}"'
                          f' stroke="#ffffff" stroke-width="0.6"><title>{html.escape(name)}</title></rect>')
        if label and width > 6.6 * len(label) + 6:
            self.text(x + 4, self.y + BAR / 2 + 4, label, 11, "#ffffff")

    def row(self, begin, end, slices):
        scale = (WIDTH - 2 * LEFT) / (end - begin)
        for start, length, name, label in slices:
            self.box(LEFT + (start - begin) * scale, length * scale, f"{name}: {length:.1f} us", colour(name), label)
        self.y += BAR + 6


def draw(step, block):
    picture = Picture()
    picture.y += 16
    picture.text(LEFT, picture.y - 4, f"{step['name']} of {step['args'].get('n_tokens', '?')} token(s) at position "
                 f"{step['args'].get('position', '?')}: {(step['end'] - step['ts']) / 1000:.2f} ms, {len(step['blocks'])} blocks", 13)
    slices = [(b["ts"], b["end"] - b["ts"], b["name"], b["name"].removeprefix("blk ")) for b in step["blocks"]]
    slices += [(s["ts"], s["dur"], s["name"], s["name"]) for s in step["stages"]]
    picture.row(step["ts"], step["end"], slices)
    picture.y += 22
    picture.text(LEFT, picture.y - 4, f"{block['name']}: {(block['end'] - block['ts']) / 1000:.3f} ms", 13)
    picture.row(block["ts"], block["end"], [(s["ts"], s["dur"], s["name"], s["name"]) for s in block["stages"]])
    picture.y += 8
    longest = sorted(block["stages"], key=lambda s: -s["dur"])[:8]
    for i, stage in enumerate(longest):
        x, y = LEFT + (i % 4) * 245, picture.y + (i // 4) * 20
        picture.parts.append(f'<rect x="{x}" y="{y}" width="11" height="11" fill="{colour(stage["name"])}"/>')
        picture.text(x + 16, y + 10, f"{stage['name']} {stage['dur']:.0f} us ({stage['args'].get('kernel', '')})", 11)
    height = picture.y + 50
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
            f'font-family="sans-serif"><rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n'
            + "\n".join(picture.parts) + "\n</svg>\n")


def main():
    if len(sys.argv) < 3:
        fail("expected TRACE.json OUT.svg [STEP [BLOCK]]")
    try:
        steps = read(sys.argv[1])
    except OSError as error:
        fail(f"{sys.argv[1]}: {error.strerror}")
    step = pick(steps, int(sys.argv[3]) if len(sys.argv) > 3 else -1, "step")
    blocks = step["blocks"]
    block = pick(blocks, int(sys.argv[4]) if len(sys.argv) > 4 else len(blocks) // 2, "block")
    Path(sys.argv[2]).write_text(draw(step, block))


main()
