#!/usr/bin/env python3
"""Trains the demo model, writes demo.gguf and measures what is in the file. One command, seeded."""
import argparse
import os

# Each of the two workers computes alone: a barrier per operation is slow on a busy machine.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import export
from corpus import COUNT_FORMS, SUM_FORMS, all_pairs, count_tasks, document, is_held_out
from model import Config, Ternary, forward, init_params, ternarise
from tokenizer import Tokenizer, learn_merges

MODEL_NAME = "BitNet-Demo-Sums"
SEED = 1
VOCAB_SIZE = 480
TOKENIZER_DOCUMENTS = 50000
STEPS = 3000
WARMUP_STEPS = 100
WORKERS = 2
ROWS, ROW_LENGTH = 8, 96  # of each worker's part of a batch
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.1  # on the masters of the linears, first half only
EVAL_INTERVAL = 500  # divides STEPS: the file is written here too
EVAL_SAMPLE = 200
EVAL_ROWS = 250
NO_DOCUMENT = -1
PROMPTS = (
    "2+2=", "What is 2+2?", "User: What is 2+2?<|eot_id|>Assistant: ",
    "User: What is 57+68?<|eot_id|>Assistant: ", "User: Who are you?<|eot_id|>Assistant: ",
    "User: What day comes after Monday?<|eot_id|>Assistant: ", "The day after Monday is",
    "The month before March is", "What month comes after December?", "Monday Tuesday",
    "January, February", "1 2 3 4", "Count from 3 to 9:", "1 3 5 7", "red blue red blue red",
    "a b c d e")


def encode_document(tokenizer, segments):
    """Token ids and, for each, its weight as a prediction target."""
    ids, weights = [tokenizer.bos], [0.0]
    for text, weight in segments:
        part = tokenizer.encode(text)
        ids += part
        weights += [weight] * len(part)
    return ids, weights


class Packer:
    """Fills rows with whole documents; the rest of a row is masked padding."""

    def __init__(self, tokenizer, rng):
        self.tokenizer, self.rng = tokenizer, rng
        self.draw()

    def draw(self):
        self.pending = encode_document(self.tokenizer, document(self.rng))

    def fill_row(self, tokens, weights, documents):
        at = number = 0
        while at + len(self.pending[0]) <= len(tokens):
            end = at + len(self.pending[0])
            tokens[at:end], weights[at:end] = self.pending
            documents[at:end] = number
            at, number = end, number + 1
            self.draw()

    def batch(self):
        shape = ROWS, ROW_LENGTH
        tokens, weights = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        documents = np.full(shape, NO_DOCUMENT)
        for row in range(ROWS):
            self.fill_row(tokens[row], weights[row], documents[row])
        return tuple(map(torch.from_numpy, (tokens, weights, documents)))


def loss_of(config, params, batch):
    tokens, weights, documents = batch
    logits = forward(config, params, tokens, documents)[:, :-1]
    # the first token of a document has weight 0, so no target crosses a boundary
    losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    targets = weights[:, 1:].flatten()
    return (losses * targets).sum() / targets.sum()


def gradients(config, params, batch):
    loss = loss_of(config, params, batch)
    return loss.item(), torch.autograd.grad(loss, list(params.values()))


def set_gradients(pool, config, params, packer):
    """Mean loss over the workers; the mean gradient goes to the parameters."""
    batches = [packer.batch() for _ in range(WORKERS)]
    results = list(pool.map(lambda batch: gradients(config, params, batch), batches))
    losses, grads = zip(*results)
    for param, *parts in zip(params.values(), *grads):
        param.grad = sum(parts) / WORKERS
    return sum(losses) / WORKERS


def rate_at(step):
    return min(1.0, (step + 1) / WARMUP_STEPS) * (1 - step / STEPS)


def make_optimizer(params):
    decayed = [p for name, p in params.items() if p.dim() == 2 and name != "token_embd.weight"]
    others = [p for p in params.values() if not any(p is q for q in decayed)]
    return torch.optim.AdamW([{"params": decayed, "weight_decay": WEIGHT_DECAY},
                              {"params": others, "weight_decay": 0.0}],
                             lr=LEARNING_RATE, betas=(0.9, 0.97))


@torch.no_grad()
def count_correct(config, params, tokenizer, documents):
    """Documents of prompt and answer whose greedy answer, end token included, is right."""
    rows = []
    for prompt, answer in documents:
        rows.append([[tokenizer.bos], tokenizer.encode(prompt[0]), tokenizer.encode(answer[0])])
    correct = 0
    for start in range(0, len(rows), EVAL_ROWS):
        part = rows[start:start + EVAL_ROWS]
        length = max(sum(map(len, row)) for row in part)
        tokens = torch.full((len(part), length), tokenizer.eos)
        asked = torch.zeros(len(part), length, dtype=torch.bool)
        for i, row in enumerate(part):
            ids = sum(row, [])
            tokens[i, :len(ids)] = torch.tensor(ids)
            asked[i, len(ids) - len(row[2]):len(ids)] = True
        # every answer token being the argmax after the right ones = greedy gives this answer
        best = forward(config, params, tokens, torch.zeros_like(tokens))[:, :-1].argmax(-1)
        correct += ((best == tokens[:, 1:]) | ~asked[:, 1:]).all(1).sum().item()
    return correct


@torch.no_grad()
def greedy(config, params, tokenizer, prompt, token_limit=40):
    ids = [tokenizer.bos] + tokenizer.encode(prompt)
    start = len(ids)
    while len(ids) < start + token_limit and ids[-1] not in (tokenizer.eos, tokenizer.eot):
        tokens = torch.tensor([ids])
        ids.append(forward(config, params, tokens, torch.zeros_like(tokens))[0, -1].argmax().item())
    return tokenizer.decode(ids[start:])


def eval_samples():
    rng = random.Random(SEED)
    held_out = [pair for pair in all_pairs() if is_held_out(*pair)]
    trained = [pair for pair in all_pairs() if not is_held_out(*pair)]
    return {"held-out sample": rng.sample(held_out, EVAL_SAMPLE),
            "trained sample": rng.sample(trained, EVAL_SAMPLE)}


def train(config, tokenizer, path):
    params = init_params(config)
    optimizer = make_optimizer(params)
    packer = Packer(tokenizer, random.Random(SEED))
    samples = eval_samples()
    pool = ThreadPoolExecutor(WORKERS)
    started, recent = time.monotonic(), []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate_at(step)
        if step == STEPS // 2:
            optimizer.param_groups[0]["weight_decay"] = 0.0
        recent.append(set_gradients(pool, config, params, packer))
        torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1:5d}  loss {np.mean(recent):.4f}  "
                  f"{time.monotonic() - started:5.0f} s", flush=True)
            recent = []
        if (step + 1) % EVAL_INTERVAL == 0:
            for label, pairs in samples.items():
                report(label, config, params, tokenizer, SUM_FORMS, pairs)
            save(config, params, tokenizer, path)


def report(label, config, params, tokenizer, forms, pairs):
    for form, make in forms.items():
        correct = count_correct(config, params, tokenizer, [make(a, b) for a, b in pairs])
        print(f"{label}, {form}: {correct} of {len(pairs)} ({100 * correct / len(pairs):.2f} %)",
              flush=True)


def tensor_record(name, tensor):
    array = tensor.detach().numpy()
    if name == "token_embd.weight":
        return name, export.TYPE_F16, array.shape, array.astype("<f2").tobytes()
    if array.ndim == 1:
        return name, export.TYPE_F32, array.shape, array.astype("<f4").tobytes()
    codes, scale = ternarise(tensor.detach())
    return name, export.TYPE_I2_S, array.shape, export.pack_i2s(codes.numpy(), scale.item())


def save(config, params, tokenizer, path):
    tensors = [tensor_record(name, tensor) for name, tensor in params.items()]
    export.write_gguf(path, export.metadata(config, tokenizer, MODEL_NAME), tensors)


def load_params(path):
    _, tensors = export.read_gguf(path)
    params = {}
    for name, value in tensors.items():
        if isinstance(value, tuple):
            params[name] = Ternary(torch.tensor(value[0]).float(), torch.tensor(value[1]))
        else:
            params[name] = torch.tensor(value).float()
    return params


def evaluate(config, tokenizer, path):
    params = load_params(path)
    pairs = all_pairs()
    held_out = [pair for pair in pairs if is_held_out(*pair)]
    report("file, held-out sums", config, params, tokenizer, SUM_FORMS, held_out)
    report("file, all sums", config, params, tokenizer, SUM_FORMS, pairs)
    report("file, counting", config, params, tokenizer, COUNT_FORMS, count_tasks())
    for prompt in PROMPTS:
        print(repr(prompt), "->", repr(greedy(config, params, tokenizer, prompt)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("demo.gguf"))
    parser.add_argument("--evaluate", action="store_true", help="only measure the file")
    args = parser.parse_args()
    torch.manual_seed(SEED)
    rng = random.Random(SEED)
    texts = [text for _ in range(TOKENIZER_DOCUMENTS) for text, _ in document(rng)]
    tokenizer = Tokenizer(learn_merges(texts, VOCAB_SIZE - 256 - len(export.SPECIALS)))
    config = Config(vocab_size=len(tokenizer.tokens))
    started = time.monotonic()
    if not args.evaluate:
        print(f"torch {torch.__version__}, {WORKERS} workers, {os.cpu_count()} cores; {config}")
        train(config, tokenizer, args.output)
        print(f"{args.output.name}: {args.output.stat().st_size} bytes")
    evaluate(config, tokenizer, args.output)
    print(f"total {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
