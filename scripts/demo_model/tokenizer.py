"""Byte-level BPE in the manner of LLaMA-3: training of the merges, and encoding."""
import re
from collections import Counter

from corpus import BOS, EOS, EOT, SPECIALS

# The llama-bpe pre-tokenizer; ASCII classes are equivalent to \p{L} and \p{N} on an ASCII corpus.
PRE_SPLIT = re.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]{1,3}"
    r"| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", re.ASCII)
SPECIAL_SPLIT = re.compile("(" + "|".join(map(re.escape, SPECIALS)) + ")")


def byte_alphabet():
    """GPT-2's printable stand-in for each byte, in GPT-2's token order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return ({byte: chr(byte) for byte in printable}
            | {byte: chr(256 + i) for i, byte in enumerate(others)})


ALPHABET = byte_alphabet()


def words_of(text):
    for word in PRE_SPLIT.findall(text):
        yield "".join(ALPHABET[byte] for byte in word.encode())


def merge_pair(parts, pair):
    merged, i = [], 0
    while i < len(parts):
        if tuple(parts[i:i + 2]) == pair:
            merged.append(parts[i] + parts[i + 1])
            i += 2
        else:
            merged.append(parts[i])
            i += 1
    return merged


def learn_merges(texts, merge_count):
    counts = Counter(word for text in texts for piece in SPECIAL_SPLIT.split(text)
                     if piece not in SPECIALS for word in words_of(piece))
    # Digits stay single tokens: numbers are words of their own and are left out here.
    words = [(list(word), n) for word, n in counts.items() if not word.isdigit()]
    merges = []
    while len(merges) < merge_count:
        pairs = Counter()
        for parts, n in words:
            for pair in zip(parts, parts[1:]):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = [(merge_pair(parts, best), n) for parts, n in words]
    return merges


class Tokenizer:
    def __init__(self, merges):
        self.merges = merges
        self.tokens = [*ALPHABET.values(), *(a + b for a, b in merges), *SPECIALS]
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        assert len(self.ids) == len(self.tokens), "two merges make the same token"
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.bos, self.eos, self.eot = (self.ids[t] for t in (BOS, EOS, EOT))
        self.cache = {}

    def encode_word(self, word):
        if word in self.ids:  # llama-bpe sets ignore_merges
            return [self.ids[word]]
        parts = list(word)
        while True:
            known = [pair for pair in zip(parts, parts[1:]) if pair in self.ranks]
            if not known:
                return [self.ids[part] for part in parts]
            parts = merge_pair(parts, min(known, key=self.ranks.get))

    def encode(self, text):
        ids = []
        for piece in SPECIAL_SPLIT.split(text):
            if piece in SPECIALS:
                ids.append(self.ids[piece])
                continue
            for word in words_of(piece):
                if word not in self.cache:
                    self.cache[word] = self.encode_word(word)
                ids += self.cache[word]
        return ids

    def decode(self, ids):
        byte_of = {char: byte for byte, char in ALPHABET.items()}
        out = b""
        for i in ids:
            token = self.tokens[i]
            out += token.encode() if token in SPECIALS else bytes(byte_of[c] for c in token)
        return out.decode(errors="replace")
